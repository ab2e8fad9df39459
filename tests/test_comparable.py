"""Which cards may be compared."""

from typing import Any

import pytest
from evidence_fakes import curve_values, made_run

from nbench.comparable import ALLOWANCES, check_comparable, contract
from nbench.errors import CardMismatchError, UsageError

PLAIN = {"base": {"a": curve_values()}, "nft": {"a": curve_values(seed=1)}}


def contracts(**card: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    one, other = made_run(PLAIN), made_run(PLAIN, **card)
    return contract(one.card, "base"), contract(other.card, "nft")


def test_checkpoints_of_one_run_with_equal_settings_are_comparable() -> None:
    assert check_comparable(*contracts()) == []


@pytest.mark.parametrize(
    ("change", "allowance"),
    [
        ({"checkpoints": {"nft": {"guidance": 1.0}}}, "guidance"),
        ({"checkpoints": {"nft": {"sigmas": {"2": "other", "4": "grid-4"}}}}, "sigmas"),
        ({"checkpoints": {"nft": {"max_sequence_length": 256}}}, "text-length"),
        ({"checkpoints": {"nft": {"family": "flux"}}}, "family"),
        ({"dtype": "bfloat16"}, "dtype"),
        ({"device": "cuda"}, "device"),
        ({"kernels": {"attention": "flash"}}, "device"),
        ({"versions": {"torch": "3"}}, "versions"),
        ({"nbench": "1"}, "versions"),
        ({"size": [128, 128]}, "size"),
        ({"batch_size": 4}, "batch"),
    ],
)
def test_a_difference_is_refused_or_allowed_by_name_and_reported(change: dict[str, Any], allowance: str) -> None:
    with pytest.raises(CardMismatchError, match=f"--allow {allowance}"):
        check_comparable(*contracts(**change))
    others = [name for name in ALLOWANCES if name != allowance]
    with pytest.raises(CardMismatchError):
        check_comparable(*contracts(**change), allow=others)
    assert check_comparable(*contracts(**change), allow=[allowance])


@pytest.mark.parametrize(
    "change",
    [
        {"prompts": {"name": "made", "count": 40, "hash": "others"}},
        {"seeds": {"run_seed": 1, "count": 2}},
        {"seeds": {"run_seed": 0, "count": 4}},
    ],
)
def test_other_prompts_or_seeds_are_never_comparable(change: dict[str, Any]) -> None:
    with pytest.raises(CardMismatchError, match="not comparable"):
        check_comparable(*contracts(**change), allow=list(ALLOWANCES))


def test_another_version_of_a_scorer_is_never_comparable() -> None:
    one, other = contracts()
    other["scorers"] = {"a": "a-2"}
    with pytest.raises(CardMismatchError, match=r"scorers\.a: a-1 -> a-2"):
        check_comparable(one, other, allow=list(ALLOWANCES))


def test_what_only_one_side_has_is_left_out() -> None:
    one, other = contracts()
    other["scorers"]["b"] = "b-1"
    other["sigmas"]["16"] = "grid-16"
    del one["sigmas"]["2"]
    assert check_comparable(one, other) == []


def test_names_of_prompt_sets_and_weights_do_not_count() -> None:
    assert check_comparable(*contracts(prompts={"name": "renamed", "count": 40, "hash": "prompts"})) == []


def test_an_unknown_allowance_names_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"unknown allowance 'guidence'. Did you mean 'guidance'\?"):
        check_comparable(*contracts(), allow=["guidence"])
