import copy
from pathlib import Path

import pytest
from run_fakes import Fakes, fake_suite

from nbench.errors import CardMismatchError
from nbench.runs.backend import Models
from nbench.runs.canonical import canonical_json
from nbench.runs.card import card_hash, check_same_run, conflicts, diff, make_card
from nbench.runs.resolve import resolve
from nbench.runs.store import Store


def card(tmp_path: Path, fakes: Fakes | None = None, **fields: object) -> dict[str, object]:
    backend = (fakes or Fakes()).backend()
    return make_card(resolve(fake_suite(**fields), Store(tmp_path), backend, Models(backend)))


def test_a_card_is_json_and_says_the_same_twice(tmp_path: Path) -> None:
    one, two = card(tmp_path), card(tmp_path)
    assert canonical_json(one) == canonical_json(two)
    assert card_hash(one) == card_hash(two)
    assert str(tmp_path) not in canonical_json(one)


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({"seeds": 3}, ("seeds", "count")),
        ({"seed": 1}, ("seeds", "run_seed")),
        ({"limit": 3}, ("prompts", "count")),
        ({"grid": "linspace"}, ("sampler", "grid")),
        ({"guidance": 2.0}, ("checkpoints", "base", "guidance")),
        ({"height": 64, "width": 64}, ("size",)),
        ({"dtype": "bfloat16"}, ("dtype",)),
        ({"batch_size": 5}, ("batch_size",)),
        ({"steps": "2"}, ("steps",)),
        ({"scorers": "fake-a"}, ("scorers", "fake-b")),
        ({"checkpoints": ["base=fake-base"]}, ("checkpoints", "nft")),
        ({"checkpoints": ["base=other", "nft=fake-base+fake-lora"]}, ("checkpoints", "base", "weights")),
        ({"reference": "nft"}, ("reference",)),
        ({"rescale": {"phi": 1.0}}, ("sampler", "rescale")),
    ],
)
def test_a_changed_setting_is_a_conflict(tmp_path: Path, fields: dict[str, object], path: tuple[str, ...]) -> None:
    old, new = card(tmp_path), card(tmp_path, **fields)
    assert path in [difference.path for difference in conflicts(old, new)]
    with pytest.raises(CardMismatchError, match=r"use another --name"):
        check_same_run("demo", old, new)


def test_a_scorer_of_another_version_is_a_conflict(tmp_path: Path) -> None:
    found = conflicts(card(tmp_path), card(tmp_path, Fakes(scorer_version="2")))
    assert ("scorers", "fake-a", "version") in [difference.path for difference in found]


@pytest.mark.parametrize(
    "fields",
    [
        {"steps": "2,4,8"},
        {"scorers": "fake-a,fake-b,fake-c"},
        {"checkpoints": ["base=fake-base", "nft=fake-base+fake-lora", "awm=fake-base+other"]},
        {"norm_ratio": True},
    ],
)
def test_a_run_may_grow(tmp_path: Path, fields: dict[str, object]) -> None:
    old, new = card(tmp_path), card(tmp_path, **fields)
    assert diff(old, new)
    assert conflicts(old, new) == []


def test_a_library_of_another_version_is_a_conflict(tmp_path: Path) -> None:
    old = card(tmp_path)
    new = copy.deepcopy(old)
    new["versions"]["torch"] = "9.9"  # type: ignore[index]
    assert [str(difference) for difference in conflicts(old, new)] == [
        f"versions.torch: {old['versions']['torch']} -> 9.9"
    ]  # type: ignore[index]


def test_a_checkpoint_named_like_a_field_is_no_loophole(tmp_path: Path) -> None:
    names = ["sigmas=fake-base", "v1.0=fake-base+fake-lora"]
    old, new = card(tmp_path, checkpoints=names), card(tmp_path, checkpoints=names)
    new["checkpoints"]["sigmas"]["lora_scale"] = 0.5  # type: ignore[index]
    assert len(conflicts(old, new)) == 1
