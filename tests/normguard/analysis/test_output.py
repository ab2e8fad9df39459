"""What an analysis leaves in its folder."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from nbench.errors import UsageError
from nbench.normguard.analysis.output import Result, check_folder
from nbench.stats.bootstrap import cluster_mean

SETTINGS = {"steps": 4, "size": (64, 64), "guidance": None}


def _result() -> Result:
    result = Result()
    result.add_figures([cluster_mean([1.0, 2.0], ["a", "a"])], checkpoint="nft")
    arrays = {"q": np.array([[1.0, 1.1], [0.9, float("nan")]])}
    result.add_arrays(("p0", "p1"), (0, 0), np.array([1.0, 0.5]), arrays, checkpoint="nft")
    return result


def test_three_files_that_read_back(tmp_path: Path) -> None:
    _result().write(tmp_path / "new", "norms", settings=SETTINGS, plot="<svg/>")
    content = json.loads((tmp_path / "new/norms.json").read_text())
    assert content["analysis"] == "norms" and content["settings"]["size"] == [64, 64]
    figure = {"checkpoint": "nft", "mean": 1.5, "low": None, "high": None, "clusters": 1, "values": 2}
    assert content["figures"] == [figure]  # one prompt has no interval
    rows = pq.ParquetFile(tmp_path / "new/norms.parquet").read().to_pylist()
    assert rows[:2] == [
        {"checkpoint": "nft", "prompt_id": "p0", "seed": 0, "step": 0, "sigma": 1.0, "q": 1.0},
        {"checkpoint": "nft", "prompt_id": "p0", "seed": 0, "step": 1, "sigma": 0.5, "q": 1.1},
    ]
    assert len(rows) == 4 and (tmp_path / "new/norms.svg").read_text() == "<svg/>"


def test_only_a_result_of_the_same_settings_may_be_overwritten(tmp_path: Path) -> None:
    check_folder(tmp_path, "norms", SETTINGS)
    _result().write(tmp_path, "norms", settings=SETTINGS, plot="<svg/>")
    check_folder(tmp_path, "norms", SETTINGS)
    check_folder(tmp_path, "ratios", {"steps": 5})
    with pytest.raises(UsageError, match="other settings"):
        check_folder(tmp_path, "norms", {**SETTINGS, "steps": 5})
    (tmp_path / "norms.json").write_text("{")
    with pytest.raises(UsageError, match="other settings"):
        check_folder(tmp_path, "norms", SETTINGS)
