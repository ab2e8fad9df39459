import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nbench.scoring.rewards.ocr_text import compare, normalised, target_text

GOLDEN = json.loads((Path(__file__).parents[2] / "golden" / "scorers" / "ocr-distance.json").read_text())
FIGURES = ("reward", "strict", "exact", "substring", "surplus")
TEXT = st.text("abC é", max_size=12)


def edit_distance(one: str, other: str) -> int:
    """The textbook table, as a check of the library."""
    row = list(range(len(other) + 1))
    for i, a in enumerate(one, 1):
        last, row[0] = row[0], i
        for j, b in enumerate(other, 1):
            last, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, last + (a != b))
    return row[-1]


@pytest.mark.parametrize("case", GOLDEN["cases"], ids=[case["name"] for case in GOLDEN["cases"]])
def test_figures_worked_out_by_hand(case: dict[str, Any]) -> None:
    found = asdict(compare(case["read"], case["target"]))
    assert set(found) == set(FIGURES)
    for figure in FIGURES:
        assert found[figure] == pytest.approx(case[figure], abs=GOLDEN["tolerance"]), figure


@pytest.mark.parametrize("case", GOLDEN["targets"], ids=[repr(case["prompt"]) for case in GOLDEN["targets"]])
def test_the_target_is_what_stands_between_the_first_two_double_quotes(case: dict[str, Any]) -> None:
    assert target_text(case["prompt"]) == case["target"]


@given(TEXT, TEXT.filter(lambda text: bool(normalised(text))))
def test_the_reward_is_flow_grpo_s_formula(read: str, target: str) -> None:
    a, b = read.replace(" ", "").lower(), target.replace(" ", "").lower()
    distance = 0 if b in a else edit_distance(a, b)
    assert compare(read, target).reward == pytest.approx(1 - min(distance, len(b)) / len(b), abs=1e-12)


@given(TEXT, TEXT.filter(lambda text: bool(normalised(text))))
def test_figures_hang_together(read: str, target: str) -> None:
    found = compare(read, target)
    assert 0 <= found.strict <= found.reward <= 1
    assert found.exact <= found.substring
    assert (found.exact == 1) == (found.strict == 1)
    assert (found.substring == 1) == (found.reward == 1)
    assert 0 <= found.surplus < 1


def test_junk_around_the_target_is_seen_by_strict_and_surplus_only() -> None:
    clean, filled = compare("OPEN", "OPEN"), compare("sale OPEN sale sale", "OPEN")
    assert clean.reward == filled.reward == 1
    assert filled.strict < clean.strict
    assert filled.surplus > clean.surplus


def test_a_blank_target_is_an_error_not_a_division_by_zero() -> None:
    with pytest.raises(ValueError, match="blank"):
        compare("OPEN", "  ")
