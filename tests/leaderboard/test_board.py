"""Boards of made-up runs whose order is known."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from evidence_fakes import curve_values, scorer_part
from page_fakes import board_values, written_run

from nbench.errors import CardMismatchError, UsageError
from nbench.leaderboard.board import Board, build_board
from nbench.leaderboard.definition import make_definition
from nbench.runs.store import Store


def board(root: Path, values: dict[str, Any] | None = None, *, fields: Any = None, **options: Any) -> Board:
    values = board_values() if values is None else values
    written_run(root, values, pictures=False, **options)
    base, *others = values
    content = {
        "name": "demo", "title": "Demo", "base": {"run": "made", "checkpoint": base}, "steps": [2, 4, 8], "gallery": 0,
        "entries": [{"run": "made", "checkpoint": other} for other in others], **(fields or {}),
    }  # fmt: skip
    return build_board(make_definition(content), root, Store(root))


def order(found: Board, view: str = "overall") -> list[str]:
    return [found.standings[i].name for i in found.ranked(view)]


def test_the_order_is_that_of_the_truth(tmp_path: Path) -> None:
    found = board(tmp_path)
    assert order(found) == ["better", "base", "broken"]
    assert [view.name for view in found.views] == ["overall", "a", "b"]
    broken = found.figures["overall"][2]
    assert broken.few is not None and broken.few.high < 0
    assert broken.full is not None and broken.full.low < 0 < broken.full.high


def test_kinds_count_alike_however_many_measures_they_have(tmp_path: Path) -> None:
    """Three rewards up and one judge down by as many of its sigmas: the overall difference is nothing."""
    shared = {"prompts": 20, "seeds": 2, "noise": 0.0}
    flat = {name: curve_values(**shared) for name in ("r1", "r2", "r3", "j")}
    moved = {name: values + (-1 if name == "j" else 1) for name, values in flat.items()}
    parts = {"j": scorer_part("j", kind="judge")}
    found = board(tmp_path, {"base": flat, "moved": moved}, scorers=parts)
    assert [view.name for view in found.views] == ["overall", "reward", "judge", "r1", "r2", "r3", "j"]
    area = found.figures["overall"][1].area
    reward = found.figures["reward"][1].area
    assert area is not None and area.mean == pytest.approx(0, abs=1e-9)
    assert reward is not None and reward.mean == pytest.approx(1 / found.sigmas["r1"])


def test_lower_is_better_where_the_scorer_says_so(tmp_path: Path) -> None:
    values = {"base": {"a": curve_values(seed=1)}, "up": {"a": curve_values(seed=2, shift=1.0)}}
    found = board(tmp_path, values, scorers={"a": scorer_part("a", orientation="lower")})
    assert order(found, "a") == ["base", "up"]


def test_a_measure_without_a_better_side_does_not_count(tmp_path: Path) -> None:
    values = {name: {**own, "plain": own["a"]} for name, own in board_values().items()}
    parts = {"plain": scorer_part("plain", kind="statistics", orientation="none")}
    found = board(tmp_path, values, scorers=parts)
    assert "plain" not in [view.name for view in found.views]


def test_prompts_that_the_base_has_no_value_for_are_left_out_of_that_measure_only(tmp_path: Path) -> None:
    values = board_values()
    for own in values.values():
        own["a"][:, :3] = np.nan
    found = board(tmp_path, values)
    sizes = {view.name: view.curves.shape[1] for view in found.views}
    assert sizes == {"overall": 20, "a": 17, "b": 20}


def test_a_prompt_that_one_checkpoint_lacks_is_left_out_for_all_and_counted(tmp_path: Path) -> None:
    values = board_values()
    values["better"]["a"][1, 4, 0] = np.nan
    found = board(tmp_path, values, fields={"coverage": 0.9})
    view = next(view for view in found.views if view.name == "a")
    assert (view.curves.shape[1], view.dropped) == (19, 1)


def test_missing_scores_keep_a_checkpoint_off_the_board(tmp_path: Path) -> None:
    values = board_values()
    values["better"]["a"][1, 4, 0] = np.nan
    with pytest.raises(UsageError, match=r"better cannot stand on this board:\n  a has 99\.1 % of the values"):
        board(tmp_path, values)


def test_cards_that_differ_are_refused_and_named(tmp_path: Path) -> None:
    with pytest.raises(CardMismatchError, match=r"(?s)better cannot stand .*guidance: 5\.0 -> 1\.0 "):
        board(tmp_path, checkpoints={"better": {"guidance": 1.0}})


def test_an_allowed_difference_is_marked(tmp_path: Path) -> None:
    found = board(tmp_path, checkpoints={"better": {"guidance": 1.0}}, fields={"allow": ["guidance"]})
    assert [one.allowed for one in found.standings] == [(), ("guidance: 5.0 -> 1.0",), ()]


def test_what_a_checkpoint_was_trained_on_is_marked(tmp_path: Path) -> None:
    entries = [{"run": "made", "checkpoint": "better", "trained_on": ["a", "elsewhere"]}]
    found = board(tmp_path, fields={"entries": entries})
    assert found.standings[1].trained_on == ("a",)


def test_a_step_count_that_the_base_lacks_is_said(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="needs 28 steps"):
        board(tmp_path, fields={"steps": [2, 28]})


def test_other_prompts_than_the_definition_says_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is about the prompts 0123"):
        board(tmp_path, fields={"prompts": "0123" * 16})


def test_a_measure_that_nobody_scored_is_named_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="names aa, which the base's run has not scored"):
        board(tmp_path, fields={"scorers": ["aa"]})


def test_a_measure_without_spread_is_refused(tmp_path: Path) -> None:
    values = board_values()
    values["base"]["a"][:] = 1.0
    with pytest.raises(UsageError, match="a is the same for every picture of the base"):
        board(tmp_path, values)


def test_two_entries_of_one_name_are_refused(tmp_path: Path) -> None:
    entries = [{"run": "made", "checkpoint": "better"}, {"run": "made", "checkpoint": "broken", "name": "better"}]
    with pytest.raises(UsageError, match="two checkpoints called 'better'"):
        board(tmp_path, fields={"entries": entries})


def test_the_gallery_is_chosen_by_id_and_tags_and_never_by_score(tmp_path: Path) -> None:
    one = board(tmp_path / "1", fields={"gallery": 4})
    values = {name: {key: array[:, ::-1].copy() for key, array in own.items()} for name, own in board_values().items()}
    other = board(tmp_path / "2", values, fields={"gallery": 4})
    assert [prompt.id for prompt in one.gallery] == [prompt.id for prompt in other.gallery]
    assert len(one.gallery) == 4
