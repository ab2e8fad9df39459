"""The gate's truth table on pictures: real pocket checkpoints, run, scored and judged by the command line.

The broken checkpoint is pocket-flux with its last layer, and so every velocity, longer by half: what unguarded
fine-tuning does to norms, overdone. Many steps mend that, since an overshot step is seen and undone by the next; two
steps cannot. (Noise on the same weights instead harms few and many steps alike, so it is not what this test needs.)
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

from nbench.cli import cli
from nbench.flow.weights import POCKET_WEIGHTS
from nbench.prompts import load_prompt_set

pytestmark = pytest.mark.slow

REWARDS = {"kinds": ["reward"], "margin": {"sd": 0.5}}


def nbench(*args: object) -> Result:
    return CliRunner().invoke(cli, [str(arg) for arg in args])


def with_longer_velocities(folder: Path, factor: float) -> Path:
    """pocket-flux whose velocities are `factor` times as long."""
    from safetensors.torch import load_file, save_file

    shutil.copytree(POCKET_WEIGHTS / "pocket-flux", folder)
    path = folder / "transformer/diffusion_pytorch_model.safetensors"
    weights = load_file(path)
    for name in ("proj_out.weight", "proj_out.bias"):
        weights[name] = weights[name] * factor
    save_file(weights, path, metadata={"format": "pt"})
    return folder


class Pocket:
    """A store with a run of the base, itself under another name, and two changed checkpoints."""

    def __init__(self, root: Path) -> None:
        self.root, self.store = root, root / "store"
        self.checkpoints = {
            "base": "pocket-flux",
            "same": "pocket-flux",
            "broken": str(with_longer_velocities(root / "broken", 1.5)),
            "near": str(with_longer_velocities(root / "near", 1.05)),
        }
        self.run("cmp", "--limit", 24, "--seeds", 2, "--steps", "2,16")

    def run(self, name: str, *flags: object, checkpoints: tuple[str, ...] = ("base", "same", "broken", "near")) -> None:
        named = [part for one in checkpoints for part in ("--checkpoint", f"{one}={self.checkpoints[one]}")]
        scorers = ("--scorers", "pocket-clip,pocket-aesthetic")
        done = nbench("run", *named, *scorers, "--device", "cpu", *flags, "--name", name, "--store", self.store)
        assert done.exit_code == 0, done.output

    def policy(self, rules: list[dict[str, Any]]) -> Path:
        path = self.root / "policy.yaml"
        path.write_text(yaml.safe_dump({"name": "pocket", "rules": rules}))
        return path

    def gate(self, candidate: str, rules: list[dict[str, Any]], *flags: object, run: str = "cmp") -> Result:
        names = ("--run", run, "--base", "base", "--candidate", candidate)
        return nbench("gate", self.policy(rules), *names, "--store", self.store, *flags)

    def rows(
        self, candidate: str, rules: list[dict[str, Any]], *flags: object, run: str = "cmp"
    ) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(self.gate(candidate, rules, *flags, "--json", run=run).stdout)["rows"]
        return found


@pytest.fixture(scope="module")
def pocket(tmp_path_factory: pytest.TempPathFactory) -> Pocket:
    return Pocket(tmp_path_factory.mktemp("pocket"))


def test_identical_checkpoints_pass(pocket: Pocket) -> None:
    done = pocket.gate("same", [REWARDS])
    assert done.exit_code == 0 and "Every critical row (4)" in done.output


def test_a_broken_checkpoint_breaches_at_few_steps_and_passes_at_full_steps(pocket: Pocket, tmp_path: Path) -> None:
    done = pocket.gate("broken", [REWARDS], "--out", tmp_path / "dossier")
    assert done.exit_code == 1, done.output
    found = {(row["measure"], row["steps"]): row["verdict"] for row in pocket.rows("broken", [REWARDS])}
    assert found == {
        ("pocket-clip", 2): "BREACH", ("pocket-clip", 16): "PASS",
        ("pocket-aesthetic", 2): "BREACH", ("pocket-aesthetic", 16): "PASS",
    }  # fmt: skip
    assert pocket.gate("broken", [{**REWARDS, "steps": [16]}]).exit_code == 0
    assert pocket.gate("broken", [{**REWARDS, "steps": [2]}]).exit_code == 1
    assert len(json.loads((tmp_path / "dossier/manifest.json").read_text())) == 10


def test_too_few_prompts_are_inconclusive_with_the_number_that_would_do(pocket: Pocket) -> None:
    pocket.run("few", "--limit", 8, "--seeds", 1, "--steps", 2, checkpoints=("base", "near"))
    rules = [{"scorers": ["pocket-aesthetic"], "steps": [2], "margin": {"sd": 0.1}}]
    done = pocket.gate("near", rules, run="few")
    assert done.exit_code == 2, done.output
    (row,) = pocket.rows("near", rules, run="few")
    assert row["prompts_needed"] > 8 and "8 prompts are too few" in row["reason"]
    assert f"about {row['prompts_needed']} would be enough" in row["reason"]


def test_missing_judge_scores_are_inconclusive(pocket: Pocket) -> None:
    done = pocket.gate("same", [REWARDS, {"kinds": ["judge"], "margin": {"sd": 0.5}}])
    assert done.exit_code == 2 and "the base's run has no scorer of kind judge" in done.output


def test_scores_that_a_scorer_did_not_give_are_inconclusive(pocket: Pocket, tmp_path: Path) -> None:
    known = [one.text for one in load_prompt_set("pocket", 11)]
    (tmp_path / "prompts.txt").write_text("\n".join([*known, "quarterly derivatives outlook"]) + "\n")
    flags = ("--prompts", tmp_path / "prompts.txt", "--seeds", 1, "--steps", 2)
    pocket.run("unknown", *flags, checkpoints=("base", "same"))
    done = pocket.gate("same", [REWARDS], run="unknown")
    assert done.exit_code == 2, done.output
    verdicts = {row["measure"]: row["verdict"] for row in pocket.rows("same", [REWARDS], run="unknown")}
    assert verdicts == {"pocket-clip": "INCONCLUSIVE", "pocket-aesthetic": "PASS"}
    assert "91.6% of the pairs have both scores, 100.0% are needed" in done.output
    assert pocket.gate("same", [{**REWARDS, "coverage": 0.9}], run="unknown").exit_code == 0


def test_an_empty_policy_is_inconclusive(pocket: Pocket) -> None:
    assert pocket.gate("same", []).exit_code == 2


def test_unlike_cards_are_refused(pocket: Pocket) -> None:
    flags = ("--limit", 8, "--seeds", 1, "--steps", 2)
    pocket.run("plain", *flags, checkpoints=("base",))
    pocket.run("guided", *flags, "--guidance", "2", checkpoints=("same",))
    done = pocket.gate("same", [REWARDS], "--candidate-run", "guided", run="plain")
    assert done.exit_code == 3 and "(--allow guidance)" in done.output
    allowed = pocket.gate("same", [REWARDS], "--candidate-run", "guided", "--allow", "guidance", run="plain")
    assert allowed.exit_code in (0, 1, 2) and "NOT LIKE WITH LIKE" in allowed.output


def test_a_sequential_gate_stops_at_its_first_look(pocket: Pocket, tmp_path: Path) -> None:
    suite = tmp_path / "suite.yaml"
    names = ("base", "same", "broken")
    settings = {"prompts": "pocket", "steps": [2], "seeds": 1, "scorers": ["pocket-clip"], "device": "cpu"}
    listed = [f"{one}={pocket.checkpoints[one]}" for one in names]
    suite.write_text(yaml.safe_dump({"name": "seq", "checkpoints": listed, **settings}))
    for candidate, code in (("broken", 1), ("same", 0)):
        done = nbench(
            "gate", "sequential", pocket.policy([REWARDS]), "--suite", suite, "--base", "base",
            "--candidate", candidate, "--store", pocket.store, "--json",
        )  # fmt: skip
        assert done.exit_code == code, done.output
        found = json.loads(done.stdout)["sequential"]
        assert [look["prompts"] for look in found["looks"]] == [64] and found["most_prompts"] == 204
