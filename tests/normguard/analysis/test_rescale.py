"""The rescale study: one run per setting, pairs, and what it shares with other runs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
from run_fakes import Fakes, fake_suite

from nbench.errors import UsageError
from nbench.flow.norms import NormRescale
from nbench.normguard.analysis.rescale import RescaleLine, RescaleStudy, rescale_study, settings_of
from nbench.runs.store import Store
from nbench.runs.tables import load_run

_Key = tuple[str, str, int, str]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def _by_key(study: RescaleStudy) -> Mapping[_Key, RescaleLine]:
    return {(line.checkpoint, line.setting, line.steps, line.scorer): line for line in study.lines}


def test_each_setting_is_compared_with_none_pair_by_pair(store: Store) -> None:
    study = rescale_study(fake_suite(), store, settings_of([0.5, 0.0]), backend=Fakes().backend())
    lines = _by_key(study)
    settings = ["none", "full", "one-sided", "phi=0.5", "phi=0"]
    assert list(lines) == [
        ("nft", setting, steps, scorer) for scorer in ("fake-a", "fake-b") for steps in (2, 4) for setting in settings
    ]
    for (_, setting, steps, scorer), line in lines.items():
        assert line.pairs == line.cells == 8 and line.mean is not None
        if setting == "none":
            assert line.difference is None
            continue
        plain = lines["nft", "none", steps, scorer].mean
        assert line.difference is not None and plain is not None
        assert line.difference.mean == pytest.approx(line.mean.mean - plain.mean, abs=1e-12)
        assert line.difference.clusters == 4
    # The fake LoRA makes velocities 1.25 times longer: pulling them back moves the pictures, half way moves them less.
    full, half, none = (lines["nft", name, 4, "fake-a"].difference for name in ("full", "phi=0.5", "phi=0"))
    assert full is not None and half is not None and none is not None
    assert abs(full.mean) > abs(half.mean) > 1e-4 and none.mean == 0
    assert lines["nft", "none", 4, "fake-a"].ratio == pytest.approx(1.25, abs=0.1)


def test_the_base_is_generated_once_for_all_settings_and_other_runs(store: Store) -> None:
    fakes = Fakes()
    study = rescale_study(fake_suite(), store, settings_of([]), backend=fakes.backend())
    assert list(study.runs) == ["none", "full", "one-sided"] == list(settings_of([]))
    keys = [
        {row["key"] for row in load_run(store.run(run)).samples.to_pylist() if row["checkpoint"] == "base"}
        for run in study.runs.values()
    ]
    assert keys[0] == keys[1] == keys[2] and len(keys[0]) == 16
    before = fakes.velocity_calls
    again = rescale_study(fake_suite(), store, settings_of([]), backend=fakes.backend())
    assert again.lines == study.lines and fakes.velocity_calls == before


def test_failures_are_no_pairs(store: Store) -> None:
    fakes = Fakes(fail_prompts=["prompt number 0"])
    lines = _by_key(rescale_study(fake_suite(limit=8), store, settings_of([]), backend=fakes.backend()))
    line = lines["nft", "full", 4, "fake-a"]
    assert (line.pairs, line.cells) == (14, 16)
    assert line.difference is not None and line.difference.clusters == 7


def test_samples_hold_every_score_of_the_checkpoints(store: Store) -> None:
    samples = rescale_study(fake_suite(), store, settings_of([]), backend=Fakes().backend()).samples
    assert {len(column) for column in samples.values()} == {3 * 2 * 2 * 8}
    assert set(samples["checkpoint"]) == {"nft"} and set(samples["setting"]) == {"none", "full", "one-sided"}


def test_what_cannot_be_compared_is_refused(store: Store) -> None:
    backend = Fakes().backend()
    with pytest.raises(UsageError, match="no scorer"):
        rescale_study(fake_suite(scorers=""), store, settings_of([]), backend=backend)
    with pytest.raises(UsageError, match="no checkpoint beside the reference"):
        rescale_study(fake_suite(checkpoints=["base=b"]), store, settings_of([]), backend=backend)
    with pytest.raises(UsageError, match="no setting 'none'"):
        rescale_study(fake_suite(), store, {"full": NormRescale()}, backend=backend)
    with pytest.raises(UsageError, match="phi is 2"):
        settings_of([2])
    assert not (store.root / "runs").exists()
