"""How fast trainings and runs were on this machine, from what finished studies left behind."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml

from nbench.errors import NbenchError
from nbench.normguard.checkpoint import TrainingFolder
from nbench.normguard.config import ModelConfig, TrainConfig
from nbench.normguard.config_file import make_config
from nbench.runs.facts import read_facts
from nbench.runs.store import Store
from nbench.runs.suite import read_suite
from nbench.study.cost_bases import find_base
from nbench.study.cost_work import epoch_work


@dataclass(frozen=True)
class TrainingSpeed:
    """A training that was done here, or begun.

    Attributes:
        config: of it.
        epoch_seconds: median over its epochs.
    """

    config: TrainConfig
    epoch_seconds: float

    def forward_seconds(self) -> float:
        """Seconds per forward, or what counts as one; rewards and decoding are in it."""
        config = self.config
        work = epoch_work(config, find_base(config.model))
        return self.epoch_seconds / work.equivalents(checkpointing=config.model.gradient_checkpointing)


@dataclass(frozen=True)
class RunSpeed:
    """How fast a base was sampled here.

    Attributes:
        base: as its suite names it.
        size: (height, width) in pixels.
        step_seconds: per picture and step, decoding included.
        picture_bytes: of a stored picture.
    """

    base: str
    size: tuple[int, int]
    step_seconds: float
    picture_bytes: float


@dataclass(frozen=True)
class Speeds:
    """What was measured.

    Attributes:
        trainings: in the order of their folders.
        runs: of bases without a LoRA.
    """

    trainings: tuple[TrainingSpeed, ...] = ()
    runs: tuple[RunSpeed, ...] = ()

    def epoch_seconds(self, config: TrainConfig) -> float | None:
        """Seconds of an epoch; None where no training of this base was ever done here.

        Of a training with the same work per epoch if there is one, else of the same method, else of any.
        """
        near = [one for one in self.trainings if _same_model(one.config.model, config.model)]
        work = epoch_work(config, find_base(config.model))
        by_method = [one for one in near if one.config.method.name == config.method.name]
        same = [one for one in by_method if epoch_work(one.config, find_base(one.config.model)) == work]
        if same:
            return statistics.median(one.epoch_seconds for one in same)
        rates = [one.forward_seconds() for one in by_method or near]
        if not rates:
            return None
        return statistics.median(rates) * work.equivalents(checkpointing=config.model.gradient_checkpointing)

    def forward_seconds(self, model: ModelConfig) -> float | None:
        """Seconds per row through the transformer without gradient, from a run of this base, else from trainings."""
        base = find_base(model)
        run = self._run(model)
        if run is not None:
            return run.step_seconds / (1 if base is None else base.network_rows(model))
        rates = [one.forward_seconds() for one in self.trainings if _same_model(one.config.model, model)]
        return statistics.median(rates) if rates else None

    def picture_bytes(self, model: ModelConfig) -> float | None:
        """Bytes of a stored picture; None where no run of this base and size was done here."""
        run = self._run(model)
        return None if run is None else run.picture_bytes

    def _run(self, model: ModelConfig) -> RunSpeed | None:
        size = None if model.height is None or model.width is None else (model.height, model.width)
        if size is None:
            base = find_base(model)
            size = None if base is None else base.resolution
        return next((one for one in self.runs if one.base == model.base and one.size == size), None)


def measure(study: Path) -> Speeds:
    """What a study's folder tells of speeds; what cannot be read is passed over."""
    logs = sorted((study / "trainings").glob("*/log.jsonl"))
    trainings = tuple(found for log in logs for found in _training(log.parent))
    return Speeds(trainings, tuple(_runs(Store(study / "store"))))


def measure_beside(study: Path) -> Speeds:
    """What the other studies in the same parent folder tell of speeds."""
    others = sorted(path.parent for path in study.parent.glob("*/study.yaml") if path.parent != study)
    found = [measure(path) for path in others]
    return Speeds(
        tuple(one for speeds in found for one in speeds.trainings),
        tuple(one for speeds in found for one in speeds.runs),
    )


def _training(path: Path) -> Iterator[TrainingSpeed]:
    folder = TrainingFolder(path)
    try:
        config = make_config(yaml.safe_load(folder.config.read_text(encoding="utf-8")))
        seconds = [float(record["seconds"]["epoch"]) for record in folder.records()]
    except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError, NbenchError):
        return
    if seconds:
        yield TrainingSpeed(config, statistics.median(seconds))


def _runs(store: Store) -> Iterator[RunSpeed]:
    for path in sorted((store.root / "runs").glob("*/card.json")):
        run = store.run(path.parent.name)
        try:
            card, suite = run.read_json(run.card), read_suite(run.suite)
            if card is None:
                continue
            for checkpoint in suite.checkpoints:
                facts = read_facts(store, card["checkpoints"][checkpoint.name]["weights"])
                if checkpoint.lora is not None or facts is None:
                    continue
                for place, speed in facts.speed.items():
                    height, width = place.rpartition(":")[2].split("x")
                    size = (int(height), int(width))
                    yield RunSpeed(checkpoint.base, size, speed.step_seconds, speed.picture_bytes)
        except (OSError, ValueError, KeyError, TypeError, NbenchError):
            continue


def _same_model(one: ModelConfig, other: ModelConfig) -> bool:
    keys = ("base", "height", "width", "max_sequence_length")
    return all(getattr(one, key) == getattr(other, key) for key in keys)
