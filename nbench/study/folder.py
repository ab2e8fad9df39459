"""The folder of a study: where each stage leaves what the next one reads.

    OUT/study.yaml               written first; a resumed study must have the same
    OUT/prompts/evaluation.yaml  what every checkpoint is evaluated on
    OUT/configs/TRAINING.yaml    what `nbench train` is given
    OUT/trainings/TRAINING/      what it leaves
    OUT/suites/RUN.yaml          what `nbench run` is given
    OUT/store/                   what it leaves
    OUT/analyses/GROUP/          what `nbench analyze` leaves
    OUT/logs/TASK.log            what a task printed
    OUT/tasks.jsonl              a line per finished task: command, seconds
    OUT/results/                 claims, tables, figures, board and page

Paths in configs and suites are relative to OUT, where its commands run, so a folder can be moved to another machine.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from nbench.errors import CardMismatchError, UsageError
from nbench.normguard.checkpoint import TrainingFolder
from nbench.runs.files import TEMPORARY, store_errors, write_atomic
from nbench.runs.journal import Journal, Record, read_journal
from nbench.runs.store import Store
from nbench.runs.suite import make_suite, read_suite
from nbench.study.config import StudyConfig, make_study
from nbench.study.plan import PlannedRun, Training

#: keys of a study that may change while it is under way: they touch nothing that was made
FREE = ("title", "label", "notes", "grid", "claims", "analyses", "rewards", "arms")


class StudyFolder:
    """A study on disk."""

    def __init__(self, path: Path) -> None:
        self.path = path.expanduser().resolve()
        self.study = self.path / "study.yaml"
        self.prompts = self.path / "prompts" / "evaluation.yaml"
        self.journal = self.path / "tasks.jsonl"
        self.results = self.path / "results"
        self.store = Store(self.path / "store")

    def config(self, training: Training) -> Path:
        """A training's config."""
        return self.path / "configs" / f"{training.name}.yaml"

    def training(self, training: Training) -> TrainingFolder:
        """A training's folder."""
        return TrainingFolder(self.path / "trainings" / training.name)

    def suite(self, run: PlannedRun) -> Path:
        """A run's suite."""
        return self.path / "suites" / f"{run.name}.yaml"

    def analysis(self, group: str) -> Path:
        """Folder of a group's analyses."""
        return self.path / "analyses" / group

    def log(self, task: str) -> Path:
        """What a task printed."""
        return self.path / "logs" / f"{task}.log"

    def lora(self, training: Training, epoch: int | None) -> Path:
        """The policy's LoRA after so many epochs, or at the end."""
        folder = self.training(training)
        return (folder.final if epoch is None else folder.checkpoints / f"epoch-{epoch:04d}") / "policy"

    def begin(self, study: StudyConfig) -> None:
        """Write study.yaml, and see that the folder is empty or holds this study.

        Grid, rewards, arms, analyses and claims may change: a study grows, and what was trained stays. A training or
        run that would come out otherwise is refused by its own folder.

        Raises:
            CardMismatchError: it holds a study with other settings; each is named.
            UsageError: it holds something else.
            StoreError: it cannot be written.
        """
        if self.study.is_file():
            old = make_study(yaml.safe_load(self.study.read_text(encoding="utf-8")), where=str(self.study))
            before, after = old.model_dump(mode="json"), study.model_dump(mode="json")
            changed = [key for key in after if key not in FREE and before[key] != after[key]]
            if changed:
                raise CardMismatchError(
                    f"{self.path} holds a study with other {', '.join(changed)}: use another --out, or the settings of "
                    f"{self.study}."
                )
        elif self.path.is_dir() and not all(one.name.startswith(TEMPORARY) for one in self.path.iterdir()):
            raise UsageError(f"{self.path} holds files, but no study: choose another --out.")
        with store_errors(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
        write_atomic(self.study, study.to_yaml().encode("utf-8"))

    def write(self, path: Path, content: str) -> None:
        """Write a file of the study, unless it is there with this content.

        Raises:
            StoreError: the disk refuses.
        """
        if path.is_file() and path.read_text(encoding="utf-8") == content:
            return
        with store_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, content.encode("utf-8"))

    def is_trained(self, training: Training) -> bool:
        """Whether a training came to its end, with the epochs that the study asks for."""
        result = self.training(training).result
        if not result.is_file():
            return False
        try:
            epochs = json.loads(result.read_text(encoding="utf-8"))["epochs"]
        except (OSError, ValueError, KeyError):
            return False
        return bool(epochs >= training.config.optim.epochs)

    def is_run(self, run: PlannedRun, suite: dict[str, Any]) -> bool:
        """Whether a run is complete, with this suite."""
        folder = self.store.run(run.name)
        if not folder.done.is_file() or not folder.suite.is_file():
            return False
        try:
            return read_suite(folder.suite) == make_suite(self._absolute(suite))
        except UsageError:
            return False

    def _absolute(self, suite: dict[str, Any]) -> dict[str, Any]:
        """A suite whose paths lead from anywhere, as a run keeps it."""
        checkpoints = [
            {**one, **({"lora": str(self.path / one["lora"])} if one.get("lora") else {})}
            for one in suite["checkpoints"]
        ]
        return {**suite, "prompts": str(self.path / suite["prompts"]), "checkpoints": checkpoints}

    def relative(self, path: Path) -> str:
        """A path of the study as its commands write it."""
        return path.relative_to(self.path).as_posix()

    def note(self, record: Mapping[str, Any]) -> None:
        """Append a line to the list of finished tasks.

        Raises:
            StoreError: the disk refuses, or the list is damaged.
        """
        with Journal(self.journal) as journal:
            journal.append([record])

    def noted(self) -> Sequence[Record]:
        """Finished tasks, oldest first; a torn last line is left out.

        Raises:
            StoreError: the list is damaged before its end.
        """
        return read_journal(self.journal).records
