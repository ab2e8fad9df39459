"""`nbench train` and `nbench analyze guards` end to end on a tiny SD3 pipeline, and what they refuse."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result

from nbench.cli import cli


def nbench(*args: object) -> Result:
    return CliRunner().invoke(cli, [str(arg) for arg in args])


@pytest.fixture
def config(sd3_folder: Path, tmp_path: Path) -> Path:
    path = tmp_path / "tiny.yaml"
    content = {
        "name": "tiny",
        "model": {"base": str(sd3_folder), "device": "cpu", "guidance": 1.0, "height": 16, "width": 16},
        "method": {"name": "nft"},
        "rewards": [{"scorer": "image-stats", "metric": "saturation"}],
        "prompts": {"set": "pocket", "holdout": 2},
        "rollout": {"prompts": 2, "group_size": 2, "steps": 2},
        "times": {"count": 1},
        "optim": {"epochs": 2, "batch_size": 4, "learning_rate": 1e-3},
        "evaluate": {"steps": [2], "seeds": 1},
    }
    path.write_text(yaml.safe_dump(content))
    return path


def test_train_ends_with_the_comparison_and_with_a_command_that_runs_what_it_wrote(
    config: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    result = nbench("train", config, "--out", out)
    assert result.exit_code == 0, result.output
    assert "saturation" in result.output
    assert "epoch 1/2" in result.output
    assert "norm q" in result.output
    lora = out / "final" / "policy" / "pytorch_lora_weights.safetensors"
    assert lora.is_file()
    assert f"+{lora}" in result.output.replace("\n", "")
    assert len((out / "log.jsonl").read_text().splitlines()) == 2


def test_train_again_goes_on_where_it_was(config: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert nbench("train", config, "--out", out, "--epochs", 1).exit_code == 0
    result = nbench("train", config, "--out", out)
    assert result.exit_code == 0, result.output
    assert "Going on after epoch 1 of 2." in result.output
    assert [json.loads(line)["epoch"] for line in (out / "log.jsonl").read_text().splitlines()] == [0, 1]


def test_train_guard_adds_a_calibrated_guard_to_the_config(config: Path, tmp_path: Path) -> None:
    result = nbench("train", config, "--guard", "norm_hinge", "--show")
    assert result.exit_code == 0, result.output
    shown = yaml.safe_load(result.output)
    assert shown["name"] == "tiny-norm_hinge"
    assert shown["guards"][0]["name"] == "norm_hinge"
    assert shown["guards"][0]["weight"] is None
    assert shown["guards"][0]["calibrate"]["gradient_ratio"] > 0


def test_train_guard_takes_a_weight(config: Path) -> None:
    result = nbench("train", config, "--guard", "symmetric_norm=0.25", "--show")
    assert yaml.safe_load(result.output)["guards"][0]["weight"] == 0.25


def test_train_list_names_a_config_for_every_method_and_base() -> None:
    result = nbench("train", "--list")
    assert result.exit_code == 0
    for base in ("pocket-sd3", "sd3.5-medium", "flux.1-dev"):
        for method in ("nft", "awm", "dpo", "grpo"):
            assert f"{base}-{method}" in result.output
    assert "pocket-flux-nft" in result.output


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "there is no config"),
        (("pocket-sd3-nfd",), "Did you mean 'pocket-sd3-nft'"),
        (("pocket-sd3-nft", "--set", "optim.epochs"), "is not KEY=VALUE"),
        (("pocket-sd3-nft", "--set", "optim.learnin_rate=1"), "Did you mean 'learning_rate'"),
        (("pocket-sd3-nft", "--set", "method={name: ntf}"), "unknown method 'ntf'. Did you mean 'nft'"),
        (("pocket-sd3-nft", "--set", "rollout.group_size=1"), "use at least 2"),
        (
            ("pocket-sd3-nft", "--guard", "norm_hing"),
            "takes a norm guard, not 'norm_hing': write others into the config. Did you mean 'norm_hinge'",
        ),
        (
            ("pocket-sd3-nft", "--set", "guards=[{name: norm_hing, weight: 1}]"),
            "unknown guard 'norm_hing'. Did you mean",
        ),
        (("pocket-sd3-nft", "--set", "times.low=0.95"), "rollout's times lie between times.low"),
        (("pocket-sd3-nft", "--guard", "norm_hinge=much"), "is not NAME or NAME=WEIGHT"),
        (("pocket-sd3-dpo", "--guard", "old_policy_hinge"), "needs the velocity of a rollout policy of its own"),
        (("pocket-sd3-nft", "--set", "guards=[{name: ratio_norm}]"), "use it with grpo"),
        (("pocket-sd3-nft", "--set", "rewards.0.scorer=pocket-clop"), "Did you mean 'pocket-clip'"),
    ],
)
def test_train_refuses_in_one_sentence_and_writes_nothing(
    arguments: tuple[str, ...], said: str, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    result = nbench("train", *arguments, "--out", out)
    assert result.exit_code == 3
    assert said in result.output
    assert "Traceback" not in result.output
    assert not (out / "config.yaml").exists()


def test_train_refuses_to_change_a_training_and_names_the_key(config: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert nbench("train", config, "--out", out, "--epochs", 1).exit_code == 0
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    result = nbench("train", config, "--out", out, "--set", "optim.learning_rate=2e-3")
    assert result.exit_code == 3
    assert "optim.learning_rate: 0.001 -> 0.002" in result.output
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before


def test_guards_trains_each_variant_once_and_tabulates_reward_and_norm(config: Path, tmp_path: Path) -> None:
    out = tmp_path / "study"
    arguments = ("analyze", "guards", config, "--weights", "0.1", "--powers", "1,2", "--out", out)
    result = nbench(*arguments)
    assert result.exit_code == 0, result.output
    rows = json.loads((out / "guards.json").read_text())
    assert [row["variant"] for row in rows] == ["no-guard", "p1-w0.1", "p2-w0.1"]
    assert [row["weight"] for row in rows] == [None, 0.1, 0.1]
    assert all(row["base_states"]["mean"] > 0 for row in rows)
    assert (out / "guards.svg").read_text().startswith("<svg")
    logs = {path: path.read_bytes() for path in out.rglob("log.jsonl")}
    assert len(logs) == 3
    again = nbench(*arguments)
    assert again.exit_code == 0, again.output
    assert {path: path.read_bytes() for path in out.rglob("log.jsonl")} == logs
    assert json.loads((out / "guards.json").read_text()) == rows


def test_guards_needs_something_to_try(config: Path, tmp_path: Path) -> None:
    result = nbench("analyze", "guards", config, "--out", tmp_path / "study")
    assert result.exit_code == 3
    assert "give weights, calibration ratios, or both" in result.output
