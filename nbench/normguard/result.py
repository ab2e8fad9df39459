"""What a finished training leaves behind, in memory and as result.json."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import nbench
from nbench.normguard.checkpoint import TrainingFolder
from nbench.normguard.evaluate import Evaluation
from nbench.normguard.guarding import Guard
from nbench.normguard.processes import Processes
from nbench.runs.files import write_atomic


@dataclass(frozen=True)
class TrainResult:
    """What a training came to.

    Attributes:
        folder: of the training.
        policy, ema: what `nbench run` loads: LoRA files, or pipeline folders for full tuning.
        epochs, step: done in all.
        evaluation: of the end.
        seconds: of this call.
    """

    folder: TrainingFolder
    policy: Path
    ema: Path
    epochs: int
    step: int
    evaluation: Evaluation
    seconds: float


def write_result(result: TrainResult, name: str, processes: Processes, guards: Sequence[Guard]) -> None:
    """Write result.json, which says that the training is done.

    Raises:
        StoreError: the disk refuses.
    """
    content = {
        "nbench": nbench.__version__,
        "name": name,
        "epochs": result.epochs,
        "steps": result.step,
        "processes": processes.count,
        "sharded": processes.sharded,
        "train_seconds": sum(record["seconds"]["epoch"] for record in result.folder.records()),
        "guards": {guard.name: guard.weight for guard in guards},
        "evaluation": result.evaluation.to_json(),
    }
    write_atomic(result.folder.result, (json.dumps(content, indent=1) + "\n").encode())
