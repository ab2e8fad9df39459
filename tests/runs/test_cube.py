"""A run's tables as arrays."""

import numpy as np
import pytest
from evidence_fakes import STEPS, curve_values, made_run, scorer_part

from nbench.runs.cube import Measure, make_cube


def test_values_stand_at_their_checkpoint_steps_prompt_and_seed() -> None:
    base, other = curve_values(), curve_values(seed=1)
    cube = make_cube(made_run({"base": {"a": base}, "nft": {"a": other}}))
    assert (cube.checkpoints, cube.steps, cube.seeds) == (("base", "nft"), STEPS, (0, 1))
    values = cube.values[Measure("a", "a", "reward", "higher", "made up")]
    assert np.array_equal(values, np.stack([base, other]))
    assert cube.keys[1, 2, 3, 1] == "nft-8-p003-1"
    assert cube.texts["p003"] == "prompt 3" and cube.tags["p003"] == ("odd",)
    assert cube.norms[0, 2, 0, 0] == pytest.approx(1.2)


def test_rows_in_any_order_give_the_same_arrays() -> None:
    run = made_run({"base": {"a": curve_values()}, "nft": {"a": curve_values(seed=1)}})
    order = np.random.default_rng(0).permutation(len(run.scores))
    shuffled = type(run)(**{**vars(run), "scores": run.scores.take(order)})
    (one,), (other,) = make_cube(run).values.values(), make_cube(shuffled).values.values()
    assert np.array_equal(one, other)


def test_failures_are_nan_and_checkpoints_without_a_scorer_too() -> None:
    base = curve_values()
    base[0, 0, 0] = np.nan
    cube = make_cube(made_run({"base": {"a": base, "b": curve_values()}, "nft": {"a": curve_values()}}))
    a, b = (cube.values[cube.measure(name)] for name in "ab")  # type: ignore[index]
    assert np.isnan(a).sum() == 1 and np.isnan(a[0, 0, 0, 0])
    assert np.isnan(b[1]).all() and not np.isnan(b[0]).any()


def test_set_level_scores_have_one_seed() -> None:
    spread = np.arange(3 * 40, dtype=float).reshape(3, 40, 1)
    parts = {"spread": scorer_part("spread", kind="diversity")}
    cube = make_cube(made_run({"base": {"a": curve_values(), "spread": spread}}, scorers=parts))
    measure = cube.measure("spread")
    assert measure is not None and np.array_equal(cube.values[measure][0], spread)


def test_measures_are_named_after_scorer_and_metric() -> None:
    parts = {"stats": scorer_part("stats", orientation="none", metrics=("x", "y"))}
    cube = make_cube(made_run({"base": {"stats": curve_values(), "a": curve_values()}}, scorers=parts))
    assert [one.name for one in cube.values] == ["stats.x", "stats.y", "a"]
    assert [one.sign for one in cube.values] == [0, 0, 1] and cube.measure("stats") is None
