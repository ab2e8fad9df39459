"""`nbench analyze` end to end on a tiny SD3 pipeline."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result

from nbench.cli import cli

SHARED = ["--limit", 2, "--seeds", 1, "--size", 16, "--device", "cpu", "--guidance", 1, "--batch-size", 2]


def nbench(*args: object) -> Result:
    return CliRunner().invoke(cli, ["analyze", *map(str, args)])


def _read(folder: Path, name: str) -> tuple[dict, list[dict]]:  # type: ignore[type-arg]
    ElementTree.fromstring((folder / f"{name}.svg").read_text())
    return json.loads((folder / f"{name}.json").read_text()), pq.ParquetFile(
        folder / f"{name}.parquet"
    ).read().to_pylist()


def test_norms_of_two_loras_and_again_with_the_same_bytes(sd3_folder: Path, sd3_lora: Path, tmp_path: Path) -> None:
    pairs = ["--checkpoint", f"nft={sd3_folder}+{sd3_lora}", "--checkpoint", f"awm={sd3_folder}+{sd3_lora}"]
    command = ["norms", *pairs, "--steps", 2, *SHARED]
    done = nbench(*command, "--out", tmp_path / "a")
    assert done.exit_code == 0, done.output
    assert "renoised" in done.output and "samples with q > 1" in done.output and "norms.json" in done.output
    content, rows = _read(tmp_path / "a", "norms")
    assert len(content["figures"]) == 2 * 3 * 3 and len(rows) == 2 * 3 * 2 * 2
    assert {figure["checkpoint"] for figure in content["figures"]} == {"nft", "awm"}
    assert all(0 < figure["ratio"]["mean"] != 1 for figure in content["figures"])
    assert content["settings"]["steps"] == 2 and str(tmp_path) not in json.dumps(content)
    assert nbench(*command, "--out", tmp_path / "b").exit_code == 0
    for name in ("norms.json", "norms.parquet", "norms.svg"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    other = nbench(*command, "--states", "own", "--out", tmp_path / "a")
    assert other.exit_code == 3 and "other settings" in other.output


def test_a_full_fine_tune_is_compared_with_its_base(sd3_folder: Path, sd3_t5_folder: Path) -> None:
    done = nbench(
        "norms",
        "--checkpoint",
        f"tuned={sd3_t5_folder}",
        "--base",
        sd3_folder,
        "--steps",
        1,
        *SHARED,
        "--states",
        "own",
    )
    assert done.exit_code == 0, done.output
    assert "tuned" in done.output and "own" in done.output


def test_adjoint_of_a_base(sd3_folder: Path, tmp_path: Path) -> None:
    done = nbench(
        "adjoint", "--checkpoint", f"base={sd3_folder}", "--steps", 2, *SHARED, "--out", tmp_path, "--controls", 3,
        "--reward", "pocket-aesthetic",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    assert "coherence" in done.output
    content, rows = _read(tmp_path, "adjoint")
    assert [figure["step"] for figure in content["figures"]] == [None, 0, 1] and len(rows) == 2 * 2
    assert all(row["sensitivity"] != 0 and row["control_2"] != 0 for row in rows)
    assert len(content["settings"]["reward_identity"]) == 64


def test_ratios_of_a_perturbed_base(sd3_folder: Path, tmp_path: Path) -> None:
    command = ["ratios", "--checkpoint", f"base={sd3_folder}", "--steps", 3, *SHARED]
    done = nbench(*command, "--perturb", 0.05, "--out", tmp_path)
    assert done.exit_code == 0, done.output
    content, rows = _read(tmp_path, "ratios")
    assert [(figure["kind"], figure["step"]) for figure in content["figures"]] == [
        (kind, step) for kind in ("raw", "normalised") for step in (None, 0, 1)
    ]
    assert all(row["log_ratio"] != 0 for row in rows) and len(rows) == 2 * 2
    alone = nbench(*command)
    assert alone.exit_code == 3 and "its own base" in alone.output


def test_rescale_of_a_lora(sd3_folder: Path, sd3_lora: Path, tmp_path: Path) -> None:
    command = [
        "rescale", "--checkpoint", f"nft={sd3_folder}+{sd3_lora}", "--steps", "1,2", "--scorers", "pocket-aesthetic",
        "--phi", "0.5", *SHARED, "--store", tmp_path / "store", "--out", tmp_path / "out",
    ]  # fmt: skip
    done = nbench(*command)
    assert done.exit_code == 0, done.output
    assert "one-sided" in done.output and "phi=0.5" in done.output
    content, rows = _read(tmp_path / "out", "rescale")
    assert len(content["figures"]) == 2 * 4 and len(rows) == 2 * 4 * 2
    assert content["settings"]["steps"] == [1, 2]
    again = nbench(*command)
    assert again.exit_code == 0 and "to do" not in again.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["norms", "--checkpoint", "x"], "has no name"),
        (["norms", "--checkpoint", "x=pocket-sd3"], "its own base"),
        (["norms", "--checkpoint", "x=pocket-sd3", "--steps", "2,4"], "--steps '2,4'"),
        (["norms"], "--checkpoint"),
        (["adjoint", "--checkpoint", "x=pocket-sd3", "--reward", "image-stats"], "cannot be differentiated"),
        (["rescale", "--checkpoint", "x=pocket-sd3", "--scorers", "image-stats", "--phi", "half"], "--phi 'half'"),
        (["rescale", "--checkpoint", "x=pocket-sd3", "--scorers", "image-stats", "--phi", "2"], "phi is 2"),
        (["ratios", "--checkpoint", "x=pocket-sd3", "--perturb", "0", "--limit", "1"], "size is 0"),
        (["ratios", "--checkpoint", "x=pocket-sd3", "--perturb", "0.1", "--eta", "0", "--limit", "1"], "eta is 0"),
        (["angles"], "No such command"),
    ],
)
def test_wrong_input_is_named_and_exits_with_3(arguments: list[str], message: str) -> None:
    done = nbench(*arguments)
    assert done.exit_code == 3 and message in done.output, done.output
