"""The cost of a study in words and tables."""

from __future__ import annotations

from dataclasses import replace

import pytest
from rich.console import Console

from nbench.report.study_cost import cost_notes, cost_tables, count_words, size_words, time_words
from nbench.study.cost import StudyCost, TaskCost
from nbench.study.cost_work import Work

TRAIN = TaskCost(
    task="train-a-nft-x-unguarded-s0",
    stage="train",
    base="a",
    work=Work(2_500_000, 1_000_000, 40_000, {"reward": 40_000}),
    flops=3e18,
    seconds=8 * 86400.0,
    basis="operations",
    size=3e9,
)
RUN = TaskCost(
    "run-a-nft-x", "evaluate", "a", Work(1000, 0, 500, {"reward": 500, "[judge]": 500}), 1e15, 60.0, "done", 1e6
)


def printed(cost: StudyCost) -> str:
    console = Console(width=160, record=True, file=open("/dev/null", "w"))  # noqa: PTH123, SIM115
    for part in cost_tables(cost):
        console.print(part)
    return console.export_text()


def test_every_task_and_its_totals_are_told() -> None:
    text = printed(StudyCost("mine", (TRAIN, RUN)))
    lines = {line.split()[0]: line for line in text.splitlines() if line.split()}
    assert lines["train-a-nft-x-unguarded-s0"].split()[1:] == [
        *("2.5", "M", "1", "M", "40", "k", "3", "GB", "8.0", "days", "from", "FLOPs")
    ]
    assert lines["run-a-nft-x"].split()[-1] == "done"
    assert lines["evaluate"].split()[1:3] == ["1", "1"]  # tasks, done
    assert lines["all"].split()[-4:] == ["8.0", "days", "24.0", "h"]  # remaining, on 8 devices
    assert lines["reward"].split()[1:] == ["40", "k", "500", "-", "40.5", "k"]
    assert lines["[judge]"].split()[1:] == ["-", "500", "-", "500"]  # a name is no markup


def test_devices_are_told_only_where_a_device_was_assumed() -> None:
    assumed, measured = StudyCost("mine", (TRAIN,)), StudyCost("mine", (replace(TRAIN, basis="measured"),))
    assert "on 8 devices" in printed(assumed)
    assert "on 8 devices" not in printed(measured)
    assert any("400 TFLOP/s x 0.35" in note for note in cost_notes(assumed))
    assert not any("TFLOP/s" in note for note in cost_notes(measured))


def test_what_is_not_known_is_a_dash_and_named() -> None:
    unknown = replace(TRAIN, flops=None, seconds=None, basis="unknown", size=None)
    cost = StudyCost("mine", (unknown, RUN), unknown=("somebody/a-model",))
    assert cost.seconds() is None and cost.seconds("evaluate") == 60.0
    lines = {line.split()[0]: line.split() for line in printed(cost).splitlines() if line.split()}
    assert lines[TRAIN.task][-3:] == ["-", "-", "-"]
    assert lines["all"][-4:] == ["-", "-", "-", "-"]
    assert any(note.startswith("somebody/a-model is not known here") for note in cost_notes(cost))


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (None, "-"),
        (0.4, "0 s"),
        (89, "89 s"),
        (600, "10 min"),
        (7200, "2.0 h"),
        (86400.0, "24.0 h"),
        (864000, "10.0 days"),
    ],
)
def test_times_are_told_as_a_reader_counts_them(seconds: float | None, words: str) -> None:
    assert time_words(seconds) == words


def test_counts_and_sizes_have_three_digits() -> None:
    assert [count_words(count) for count in (0, 999, 12_345, 1_234_567, 5_000_000_000)] == [
        *("0", "999", "12.3 k", "1.23 M", "5 G")
    ]
    assert [size_words(size) for size in (None, 12, 3.4e3, 5.67e8, 1.2e12)] == [
        "-",
        "12 B",
        "3.4 kB",
        "567 MB",
        "1.2 TB",
    ]
