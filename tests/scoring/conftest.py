"""Tiny CLIP weights in the published layouts, for all tests of scorers on CLIP."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from clip_parts import write_weights

from nbench.scoring.rewards.hps import Hps
from nbench.scoring.weights import WEIGHTS_FOLDER
from nbench.testing.clip_weights import open_clip_config


@pytest.fixture(scope="session")
def clip_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of published layouts; read only."""
    return write_weights(tmp_path_factory.mktemp("weights"))


@pytest.fixture(scope="session")
def tiny_open_clip(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Name of an open_clip model of the size of the tiny HPS checkpoints."""
    import open_clip

    path = tmp_path_factory.mktemp("open_clip") / "nbench-tiny.json"
    path.write_text(json.dumps(open_clip_config()))
    open_clip.add_model_config(path)
    return path.stem


@pytest.fixture
def published(clip_weights: Path, tiny_open_clip: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """$NBENCH_WEIGHTS with every CLIP-like scorer's files, tiny; only HPS needs to be told its size."""
    monkeypatch.setenv(WEIGHTS_FOLDER, str(clip_weights))
    monkeypatch.setattr(Hps, "architecture", tiny_open_clip)
    return clip_weights
