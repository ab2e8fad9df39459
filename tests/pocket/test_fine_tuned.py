"""The bundled LoRAs: that they load by name, and that they do to pictures what the demo shows."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from nbench.flow.load import load_model
from nbench.flow.lora import resolve_lora
from nbench.flow.norms import rms
from nbench.flow.spec import CheckpointSpec
from nbench.flow.weights import BUNDLED_LORAS, POCKET_WEIGHTS
from nbench.normguard.config_file import bundled_configs, read_config
from nbench.normguard.prompting import training_prompts
from nbench.prompts import load_prompt_set
from nbench.runs.suite import read_suite


def _norm(lora: str | None) -> float:
    """Mean velocity norm at t = 1, where every sampler begins."""
    model = load_model(CheckpointSpec("one", "pocket-sd3", lora=lora, dtype="float32", device="cpu"))
    condition = model.encode(["two teddies", "a drum on a black background"], guidance=1.0)
    x = torch.randn(2, *model.latent_shape(height=64, width=64), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return float(rms(model.velocity(x, torch.tensor(1.0), condition, guidance=1.0)).mean())


def test_a_bundled_lora_is_found_by_name_even_where_a_folder_is_called_like_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pocket-sd3-nft").mkdir()
    assert resolve_lora("pocket-sd3-nft").path.parent == POCKET_WEIGHTS / "pocket-sd3-nft"


def test_unguarded_fine_tuning_lengthens_velocities_and_guarded_does_not(
    capsys: pytest.CaptureFixture[str],
) -> None:
    base, unguarded, guarded = (_norm(lora) for lora in (None, *BUNDLED_LORAS))
    assert unguarded > 1.05 * base
    assert guarded < 1.02 * base


def test_the_demo_shows_them_on_prompts_that_no_bundled_pocket_training_has_seen() -> None:
    suite = read_suite("pocket")
    assert [one.lora for one in suite.checkpoints] == [None, *BUNDLED_LORAS]
    held_out = load_prompt_set("pocket-held-out")
    configs = [name for name in bundled_configs() if name.startswith("pocket-")]
    assert suite.prompts == "pocket-held-out"
    assert len(configs) >= 5
    for name in configs:
        split = training_prompts(read_config(name))
        assert split.held_out.prompts == held_out.prompts, name


def test_each_card_names_the_licence_and_the_training() -> None:
    for name in BUNDLED_LORAS:
        text = (POCKET_WEIGHTS / name / "README.md").read_text(encoding="utf-8")
        assert "MIT" in text
        assert "nbench study pocket" in text
