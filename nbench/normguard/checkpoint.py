"""The folder of a training: its config, its log, its checkpoints; and how a stopped training finds its place.

    OUT/config.yaml               written first; a resumed training must have the same
    OUT/log.jsonl                 a line per epoch
    OUT/checkpoints/epoch-0010/   state.safetensors, state.json; policy/ and ema/ as `nbench run` loads them
    OUT/final/                    policy/ and ema/ of the last epoch
    OUT/result.json               written last

A checkpoint appears whole or not at all. Nothing is pickled.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from nbench.errors import CardMismatchError, CheckpointError, RunLockedError, UsageError
from nbench.normguard.config import TrainConfig
from nbench.normguard.config_file import make_config
from nbench.runs.files import TEMPORARY, store_errors, sync_folder, write_atomic

if TYPE_CHECKING:
    from torch import Tensor

#: settings that a resumed training may change: they do not touch what was trained
_FREE = (
    *("optim.epochs", "checkpoint_every", "tensorboard", "model.device", "name"),
    # These change rounding only, and are what running out of memory calls for.
    *("optim.batch_size", "rollout.batch_size", "model.gradient_checkpointing", "model.offload_text_encoders"),
    *(f"evaluate.{key}" for key in ("every", "steps", "seeds", "scorers", "batch_size", "ema")),
)


@dataclass(frozen=True)
class State:
    """Where a training stands.

    Attributes:
        epoch: epochs done.
        step: optimiser steps done.
        facts: other plain values (guards' weights, hashes).
        tensors: weights of roles and the optimiser's moments, by name.
    """

    epoch: int
    step: int
    facts: dict[str, Any]
    tensors: Mapping[str, Tensor]


class _Stored(Mapping[str, "Tensor"]):
    """Tensors of a file, each read when it is asked for: every process opens it, and few need all of it at once."""

    def __init__(self, path: Path) -> None:
        from safetensors import safe_open

        self._file = cast("Any", safe_open(path, framework="pt"))
        self._names: dict[str, None] = dict.fromkeys(self._file.keys())

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._names:
            raise KeyError(name)
        tensor: Tensor = self._file.get_tensor(name)
        return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


class TrainingFolder:
    """A training on disk."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = path / "config.yaml"
        self.log = path / "log.jsonl"
        self.checkpoints = path / "checkpoints"
        self.final = path / "final"
        self.held_out = path / "held-out.yaml"
        self.result = path / "result.json"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder for this process.

        Raises:
            RunLockedError: another process trains in it.
            StoreError: it cannot be written.
        """
        with store_errors(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self.path / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise RunLockedError(
                    f"another process is training in {self.path}: wait for it, or use another --out."
                ) from None
            yield
        finally:
            os.close(descriptor)

    def check(self, config: TrainConfig) -> None:
        """See that the folder is empty or holds this very training.

        Raises:
            CardMismatchError: it holds a training with other settings; each is named.
            UsageError: it holds something else.
        """
        if not self.config.is_file():
            ours = (".lock", TEMPORARY)  # what a training leaves that was killed while it wrote its config
            if self.path.is_dir() and not all(one.name.startswith(ours) for one in self.path.iterdir()):
                raise UsageError(f"{self.path} holds files, but no training: choose another --out.")
            return
        import yaml

        if not any(self.checkpoints.glob("epoch-*")) and not self.records():
            return  # it ended before its first epoch did: there is nothing to lose
        old = make_config(yaml.safe_load(self.config.read_text(encoding="utf-8")), where=str(self.config))
        changed = differences(old, config)
        if changed:
            raise CardMismatchError(
                f"{self.path} holds a training with other settings: {'; '.join(changed[:4])}"
                f"{' and more' if len(changed) > 4 else ''}. Use another --out, or the settings of {self.config}."
            )

    def begin(self, config: TrainConfig) -> None:
        """Write the config.

        Raises:
            StoreError: the disk refuses.
        """
        write_atomic(self.config, config.to_yaml().encode("utf-8"))

    def steps(self) -> list[Path]:
        """Whole checkpoints, oldest first."""
        found = (path.parent for path in self.checkpoints.glob("epoch-*/state.json"))
        return sorted(found, key=lambda path: (len(path.name), path.name))  # epoch-10000 comes after epoch-9999

    def latest(self) -> State | None:
        """The newest checkpoint's state, or None before the first; its tensors are read as they are asked for.

        Raises:
            CheckpointError: it is damaged, or those that are left hold weights only.
        """
        from safetensors import SafetensorError

        found = self.steps()
        if not found:
            left = sorted(path.name for path in self.checkpoints.glob("epoch-*"))
            if left:
                raise CheckpointError(
                    f"{self.checkpoints} holds weights ({left[-1]}) but no state to go on from: use another --out."
                )
            return None
        try:
            content = json.loads((found[-1] / "state.json").read_text(encoding="utf-8"))
            return State(content["epoch"], content["step"], content["facts"], _Stored(found[-1] / "state.safetensors"))
        except (OSError, ValueError, KeyError, SafetensorError) as error:
            raise CheckpointError(
                f"checkpoint {found[-1]} is damaged ({' '.join(str(error).split())}): delete it, to go on from the one "
                "before."
            ) from error

    def save(self, state: State, export: Any) -> Path:
        """Write a checkpoint; older ones lose their optimiser state but keep their weights.

        Args:
            state: what resuming needs.
            export: called with the (temporary) folder, writes policy/ and ema/ there.

        Raises:
            StoreError: the disk refuses.
        """
        from safetensors.torch import save_file

        target = self.checkpoints / f"epoch-{state.epoch:04d}"
        with store_errors(target):
            self.checkpoints.mkdir(parents=True, exist_ok=True)
            for stale in self.checkpoints.glob(f"{TEMPORARY}*"):
                shutil.rmtree(stale)
            building = self.checkpoints / f"{TEMPORARY}{state.epoch:04d}"
            building.mkdir()
            export(building)
            save_file(dict(state.tensors), building / "state.safetensors")
            content = {"epoch": state.epoch, "step": state.step, "facts": state.facts}
            (building / "state.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
            for path in [*building.rglob("*"), building]:
                _sync(path)
            if target.exists():
                shutil.rmtree(target)
            building.replace(target)
            sync_folder(self.checkpoints)
            for old in self.steps()[:-2]:  # the one before the newest stays whole
                (old / "state.json").unlink(missing_ok=True)  # first, since it says that the state is whole
                (old / "state.safetensors").unlink(missing_ok=True)
        return target

    def rewind(self, epoch: int) -> list[dict[str, Any]]:
        """Drop log lines of `epoch` and later, and a torn last line; returns those that stay."""
        records = [record for record in self.records() if record["epoch"] < epoch]
        text = "".join(json.dumps(record) + "\n" for record in records)
        write_atomic(self.log, text.encode("utf-8"))
        return records

    def records(self) -> list[dict[str, Any]]:
        """Lines of the log; a torn last one is left out."""
        if not self.log.is_file():
            return []
        found = []
        for line in self.log.read_text(encoding="utf-8").splitlines():
            try:
                found.append(json.loads(line))
            except json.JSONDecodeError:
                break
        return found

    def append(self, record: Mapping[str, Any]) -> None:
        """Add a line to the log.

        Raises:
            StoreError: the disk refuses.
        """
        with store_errors(self.log), self.log.open("a", encoding="utf-8") as handle:
            handle.write(json.dumps(record) + "\n")
            handle.flush()
            os.fsync(handle.fileno())


def _sync(path: Path) -> None:
    if path.is_dir():
        sync_folder(path)
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def differences(old: TrainConfig, new: TrainConfig) -> list[str]:
    """Settings that differ and matter, as "key: old -> new"."""
    before, after = _flat(old.model_dump(mode="json")), _flat(new.model_dump(mode="json"))
    return [
        f"{key}: {before.get(key, 'absent')!r} -> {after.get(key, 'absent')!r}"
        for key in sorted({*before, *after})
        if before.get(key, _flat) != after.get(key, _flat)
        and not any(key == free or key.startswith(f"{free}.") for free in _FREE)
    ]


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(value, dict | list) and value:
        items = value.items() if isinstance(value, dict) else enumerate(value)
        found: dict[str, Any] = {}
        for key, one in items:
            found.update(_flat(one, f"{prefix}.{key}" if prefix else str(key)))
        return found
    return {prefix: value}
