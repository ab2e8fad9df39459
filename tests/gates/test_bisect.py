"""Bisection: the first breach, with few evaluations, and never a guess."""

import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from run_fakes import Fakes, fake_suite

from nbench.errors import UsageError
from nbench.gates.bisect import Bisection, bisect_checkpoints, search
from nbench.gates.policy import Policy, make_policy
from nbench.report.bisect import bisection_json, bisection_table, sentence
from nbench.runs.store import Store
from nbench.runs.suite import Checkpoint
from nbench.stats.noninferiority import Verdict

LETTER: dict[str, Verdict] = {"P": "PASS", "B": "BREACH", "I": "INCONCLUSIVE"}


@given(st.integers(1, 200), st.data())
def test_the_first_breach_is_found_in_a_logarithm_of_evaluations(count: int, data: st.DataObject) -> None:
    first = data.draw(st.integers(0, count))
    found = search(count, lambda i: "BREACH" if i >= first else "PASS")
    assert found.first == (first if first < count else None)
    assert found.last_pass == (first - 1 if first else None)
    assert not found.between and found.orderly
    assert len(found.order) <= (1 if first == count else 2 + math.ceil(math.log2(count)))


@given(st.integers(1, 60), st.data())
def test_what_is_free_is_judged_first_and_never_twice(count: int, data: st.DataObject) -> None:
    first = data.draw(st.integers(0, count))
    free = data.draw(st.sets(st.integers(0, count - 1)))
    asked: list[int] = []

    def judge(i: int) -> Verdict:
        asked.append(i)
        return "BREACH" if i >= first else "PASS"

    found = search(count, judge, free)
    assert asked[: len(free)] == sorted(free) and len(asked) == len(set(asked))
    assert found.first == (first if first < count else None)


@given(st.text("PBI", min_size=1, max_size=12))
def test_an_answer_is_never_more_than_was_shown(truth: str) -> None:
    """Whatever the verdicts, the first breach is a breach, all between are inconclusive, and the last pass passed."""
    found = search(len(truth), lambda i: LETTER[truth[i]])
    assert all(found.verdicts[i] == LETTER[truth[i]] for i in found.verdicts)
    if found.first is not None:
        assert truth[found.first] == "B"
    if found.last_pass is not None:
        assert truth[found.last_pass] == "P"
    assert all(truth[i] == "I" for i in found.between)
    end = len(truth) if found.first is None else found.first
    start = -1 if found.last_pass is None else found.last_pass
    assert found.between == tuple(range(start + 1, end))
    assert found.exit_code == (1 if found.first is not None else 2 if found.between else 0)


@pytest.mark.parametrize(
    ("truth", "first", "last_pass", "between", "code"),
    [
        ("PPPP", None, 3, (), 0), ("BBBB", 0, None, (), 1), ("PIIB", 3, 0, (1, 2), 1), ("PPII", None, 1, (2, 3), 2),
        ("IIII", None, None, (0, 1, 2, 3), 2),
    ],
)  # fmt: skip
def test_inconclusive_ones_are_reported_and_not_guessed(
    truth: str, first: int | None, last_pass: int | None, between: tuple[int, ...], code: int
) -> None:
    found = search(len(truth), lambda i: LETTER[truth[i]])
    assert (found.first, found.last_pass, found.between, found.exit_code) == (first, last_pass, between, code)


def test_a_pass_after_a_breach_is_told() -> None:
    found = search(4, lambda i: LETTER["PBPB"[i]], free=range(4))
    assert found.first == 1 and not found.orderly


def test_no_checkpoint_is_an_error() -> None:
    with pytest.raises(ValueError, match="no checkpoint"):
        search(0, lambda i: "PASS")


def _checkpoints(*names: str) -> list[Checkpoint]:
    return [Checkpoint(name=name, base="fake-base", lora=f"lora-{name}") for name in names]


def _policy(margin: float) -> Policy:
    return make_policy({"rules": [{"scorers": ["fake-a"], "margin": {"absolute": margin}}]})


def test_checkpoints_are_generated_only_as_far_as_they_are_needed_and_the_base_once(tmp_path: Path) -> None:
    fakes, store = Fakes(), Store(tmp_path)
    suite = fake_suite(scorers="fake-a", limit=8)
    names = [f"s{i}" for i in range(8)]
    heard: list[str] = []
    found = bisect_checkpoints(
        _checkpoints(*names), _policy(1e9), suite, "base", store, backend=fakes.backend(),
        judged=lambda name, result: heard.append(f"{name} {result.verdict}"),
    )  # fmt: skip
    assert heard == ["s7 PASS"] and found.found.first is None and found.free == ()
    assert fakes.scored == 2 * 8 * 2 * 2  # base and s7: prompts x seeds x steps
    assert "No breach: s7, the last checkpoint, passes. 1 of 8" in sentence(found)


def bisected(names: str, margin: float, root: Path, fakes: Fakes) -> Bisection:
    suite = fake_suite(scorers="fake-a", limit=8, steps="2")
    checkpoints = _checkpoints(*names.split())
    return bisect_checkpoints(checkpoints, _policy(margin), suite, "base", Store(root), backend=fakes.backend())


def test_what_the_store_holds_is_free(tmp_path: Path) -> None:
    assert bisected("s0 s1 s2", 1e9, tmp_path, Fakes()).found.order == (2,)
    fakes = Fakes()
    again = bisected("s0 s1 s2", 1e9, tmp_path, fakes)
    assert again.free == (2,) and again.found.order == (2,)
    assert fakes.scored == 0 and fakes.velocity_calls == 0


def test_the_first_breach_is_found_end_to_end(tmp_path: Path) -> None:
    """At a margin of 0, s2, s3 and s5 are shown to be better than the base, and s0, s7, s11 and s8 to be worse."""
    found = bisected("s2 s3 s5 s0 s7 s11 s8", 0.0, tmp_path, Fakes())
    assert (found.found.first, found.found.last_pass, found.found.between) == (3, 2, ())
    assert len(found.found.order) == 4 and found.found.exit_code == 1
    assert sentence(found).startswith("s0 is the first that breaches, and s5 before it passes. 4 of 7")
    content = bisection_json(found)
    assert (content["first_breach"], content["last_pass"], content["undecided"]) == ("s0", "s5", [])
    told = {one["name"]: one["verdict"] for one in content["checkpoints"]}
    assert told["s5"] == "PASS" and told["s0"] == "BREACH" and None in told.values()
    assert bisection_table(found).row_count == 7


def test_one_that_cannot_be_told_before_the_breach_is_named(tmp_path: Path) -> None:
    found = bisected("s2 s4 s0", 0.0, tmp_path, Fakes())
    assert (found.found.first, found.found.between, found.found.exit_code) == (2, (1,), 1)
    assert "s0 breaches; the breach may begin at s4, which cannot be told: use more prompts." in sentence(found)


@pytest.mark.parametrize(
    ("names", "base", "message"), [("s0", "bas", "Did you mean 'base'"), ("s0 s0", "base", "'s0' is there twice")]
)
def test_names_that_are_unknown_or_repeat_are_refused(tmp_path: Path, names: str, base: str, message: str) -> None:
    suite, checkpoints = fake_suite(scorers="fake-a"), _checkpoints(*names.split())
    with pytest.raises(UsageError, match=message):
        bisect_checkpoints(checkpoints, _policy(1), suite, base, Store(tmp_path), backend=Fakes().backend())
