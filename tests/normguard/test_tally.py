"""Figures of an epoch: what is merged from batches and processes equals what is computed at once."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nbench.normguard.tally import Stopwatch, Tally


def direct(values: torch.Tensor) -> dict[str, float]:
    return {"mean": float(values.mean()), "std": float(values.std(correction=0)), "count": len(values)}


@given(seed=st.integers(0, 500), cuts=st.lists(st.integers(1, 39), max_size=5), processes=st.integers(1, 4))
def test_batches_and_processes_merge_to_the_direct_figures(seed: int, cuts: Sequence[int], processes: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    values = 3 + torch.randn(40, generator=generator, dtype=torch.float64)
    times = torch.rand(40, generator=generator)
    edges = [0, *sorted(set(cuts)), 40]
    tallies = [Tally() for _ in range(processes)]
    for i, (start, end) in enumerate(pairwise(edges)):
        tallies[i % processes].add("x", values[start:end], times[start:end])

    def gather(rows: list[object]) -> list[object]:  # as every process gets it
        return [*rows, *(row for tally in tallies[1:] for row in _rows(tally))]

    found = tallies[0].summary(gather)["x"]
    by = found.pop("by")
    assert found == pytest.approx(direct(values), rel=1e-9)
    assert sum(one["count"] for one in by.values()) == 40
    for bucket, figures in by.items():
        inside = values[(times * 10).floor().clamp(0, 9) == round(10 * float(bucket))]
        assert figures == pytest.approx(direct(inside), rel=1e-9, abs=1e-7)


def _rows(tally: Tally) -> list[object]:
    found: list[object] = []
    tally.summary(lambda rows: found.extend(rows) or rows)
    return found


def test_times_fall_into_tenths_and_pure_noise_into_the_last() -> None:
    tally = Tally()
    tally.add("x", torch.arange(5.0), torch.tensor([0.0, 0.0999, 0.1, 0.95, 1.0]))
    by = tally.summary()["x"]["by"]
    assert list(by) == ["0.0", "0.1", "0.9"]
    assert [by[key]["count"] for key in by] == [2, 1, 2]
    assert by["0.9"]["mean"] == 3.5


def test_steps_are_kept_apart_and_in_order() -> None:
    tally = Tally()
    tally.add("x", torch.arange(4.0), torch.tensor([10, 2, 10, 0]))
    by = tally.summary()["x"]["by"]
    assert list(by) == ["0", "2", "10"]
    assert by["10"] == {"mean": 1.0, "std": 1.0, "count": 2}


def test_figures_hold_no_gradient_and_go_into_json() -> None:
    tally = Tally()
    values = torch.ones(3, requires_grad=True)
    tally.add("b", 2 * values, torch.zeros(3))
    tally.add("a", values.bool(), torch.zeros(3))
    found = tally.summary()
    assert list(found) == ["a", "b"]
    assert json.loads(json.dumps(found)) == found
    assert found["b"]["mean"] == 2 and found["b"]["std"] == 0
    assert not any(tensor.requires_grad for tensors in tally._values.values() for tensor in tensors)


def test_names_that_one_process_alone_saw_are_there() -> None:
    one, two = Tally(), Tally()
    one.add("x", torch.tensor([1.0]), torch.tensor([0.5]))
    two.add("y", torch.tensor([2.0]), torch.tensor([0.5]))
    found = one.summary(lambda rows: [*rows, *_rows(two)])
    assert found["x"]["mean"] == 1 and found["y"]["mean"] == 2
    assert Tally().summary() == {}


def test_a_stopwatch_adds_up_and_counts_what_raised() -> None:
    watch = Stopwatch(torch.device("cpu"), exact=True)
    for _ in range(2):
        with watch.section("a"):
            time.sleep(0.01)
    with pytest.raises(RuntimeError), watch.section("b"):
        raise RuntimeError
    assert 0.02 <= watch.seconds["a"] < 5
    assert 0 <= watch.seconds["b"] < watch.seconds["a"]
