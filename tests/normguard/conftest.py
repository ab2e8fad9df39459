"""What the tests of whole trainings share."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from train_fakes import NoEvaluator

import nbench.normguard.trainer as trainer_module


@pytest.fixture(scope="module")
def quick_trainings() -> Iterator[None]:
    """Nothing waits for the disk, and nothing is evaluated, which takes longer than training."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        patch.setattr(trainer_module, "Evaluator", NoEvaluator)
        yield
