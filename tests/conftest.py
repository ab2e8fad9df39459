"""Shared by all tests: one thread, no network, and tiny checkpoints that are built once a session."""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

from pathlib import Path

import pytest
from hypothesis import settings

import nbench.testing  # before diffusers: nbench makes torchvision importable beside a CPU build of torch

# Tensors are slow on their first use, and a run of the tests must be repeatable.
settings.register_profile("nbench", deadline=None, derandomize=True)
settings.load_profile("nbench")


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def sd3_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return nbench.testing.tiny_sd3(tmp_path_factory.mktemp("tiny") / "sd3")


@pytest.fixture(scope="session")
def sd3_t5_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return nbench.testing.tiny_sd3(tmp_path_factory.mktemp("tiny") / "sd3-t5", t5=True)


@pytest.fixture(scope="session")
def flux_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return nbench.testing.tiny_flux(tmp_path_factory.mktemp("tiny") / "flux")


@pytest.fixture(scope="session")
def epsilon_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return nbench.testing.tiny_epsilon_pipeline(tmp_path_factory.mktemp("tiny") / "epsilon")


@pytest.fixture(scope="session")
def sd3_lora(tmp_path_factory: pytest.TempPathFactory, sd3_folder: Path) -> Path:
    return nbench.testing.tiny_lora(tmp_path_factory.mktemp("tiny") / "sd3-lora", sd3_folder, seed=1)


@pytest.fixture(scope="session")
def flux_lora(tmp_path_factory: pytest.TempPathFactory, flux_folder: Path) -> Path:
    return nbench.testing.tiny_lora(tmp_path_factory.mktemp("tiny") / "flux-lora", flux_folder, seed=1)
