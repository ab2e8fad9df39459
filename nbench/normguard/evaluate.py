"""Evaluation while training: score held-out prompts from the models that are being trained, through `nbench.runs`.

No second copy of any weight is loaded; see `nbench.normguard.in_memory`. The base is generated once for a whole
training, an evaluation that was cut short goes on, and `nbench run` with the same settings over the same store takes
every picture over.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nbench.errors import CardMismatchError
from nbench.flow.spec import CheckpointSpec
from nbench.normguard.evaluation import Evaluation, compare_run
from nbench.normguard.heldout import write_held_out
from nbench.normguard.in_memory import EvaluatedModel, in_memory_backend
from nbench.prompts import PromptSet
from nbench.runs.backend import Backend, default_backend
from nbench.runs.execute import RunResult, execute
from nbench.runs.observer import Observer
from nbench.runs.store import Store
from nbench.runs.suite import Suite, make_suite
from nbench.runs.tables import load_run

if TYPE_CHECKING:
    import torch

    from nbench.flow.model import FlowModel, SigmaGrid
    from nbench.normguard.in_memory import Texts

__all__ = ["EvaluatedModel", "Evaluation", "Evaluator"]


class Evaluator:
    """Evaluates checkpoints against their base on held-out prompts, again and again, into one store."""

    def __init__(
        self,
        *,
        store: Path,
        prompts: PromptSet,
        prompts_file: Path,
        base: CheckpointSpec,
        steps: Sequence[int],
        scorers: Sequence[str],
        guidance: float,
        seeds: int = 1,
        seed: int = 0,
        grid: SigmaGrid = "diffusers",
        size: tuple[int, int] | None = None,
        batch_size: int = 16,
        observer: Observer | None = None,
        backend: Backend | None = None,
    ) -> None:
        """Write the held-out prompts; nothing is generated yet.

        Args:
            store: folder of the store.
            prompts: held-out prompts, with their source and licence.
            prompts_file: where they are written, ending in .yaml; runs read them from there.
            base: what the checkpoints were trained from: its folder or hub id, revision and text length are used.
                Device and dtype are those of the models that are evaluated.
            steps: step counts.
            scorers: by name.
            guidance: of all checkpoints.
            seeds: pictures per prompt.
            seed: run seed, from which all noise follows.
            grid: of sigmas.
            size: (height, width) in pixels; None is the base's own.
            batch_size: pictures per forward.
            observer: hears of progress.
            backend: gives hashes, scorers and prompts; tests give fakes. Its loader is never used.

        Raises:
            ValueError: `base` has a LoRA.
            UsageError: `prompts_file` holds other prompts.
            PromptSetError, StoreError: it cannot be written.
        """
        if base.lora is not None:
            raise ValueError(f"the base has the LoRA {base.lora}: it must be what adapters off gives")
        self._store, self._base = Store(store), base
        self._observer, self._backend = observer, backend or default_backend()
        self._texts: Texts = {}
        write_held_out(prompts, prompts_file)
        self._settings: dict[str, Any] = {
            "prompts": str(prompts_file.resolve()),
            "steps": list(steps),
            "scorers": list(scorers),
            "guidance": guidance,
            "seeds": seeds,
            "seed": seed,
            "grid": grid,
            "height": size[0] if size else None,
            "width": size[1] if size else None,
            "batch_size": batch_size,
            "norm_ratio": True,
        }

    def evaluate(self, checkpoints: Mapping[str, EvaluatedModel], *, name: str) -> Evaluation:
        """Generate, score and compare; what the store holds already is not made again.

        Random states of torch, numpy and Python are afterwards what they were.

        Args:
            checkpoints: by name, in the order of the tables; exactly one is the base.
            name: of the run. Where the store holds a run of this name with other weights or settings (a training that
                was resumed may come to other weights), that run stays, and this one is called NAME-2, NAME-3, ...

        Raises:
            ValueError: there is no base, or there are two, or two checkpoints are saved at one place.
            CheckpointError: a model in memory is not what was saved.
            UsageError: a setting is wrong, or a scorer is unknown.
            StoreError: the store cannot be read or written.
        """
        bases = [key for key, checkpoint in checkpoints.items() if checkpoint.is_base]
        if len(bases) != 1:
            raise ValueError(f"exactly one of the checkpoints must be the base, not {bases or 'none'}")
        model = checkpoints[bases[0]].model
        suite = self._suite(checkpoints, name, bases[0], model)
        backend = in_memory_backend(self._backend, suite, checkpoints, self._texts)
        with _aside_from_training(model.device):
            result = self._execute(suite, backend)
        tables = load_run(result.folder)
        comparisons, norms = compare_run(tables, bases[0])
        return Evaluation(
            run=result.folder.name,
            base=bases[0],
            prompts=tables.card["prompts"]["count"],
            seeds=suite.seeds,
            comparisons=comparisons,
            norms=norms,
            generated=result.generated,
            failed=result.failed,
            seconds=result.seconds,
        )

    def _suite(self, checkpoints: Mapping[str, EvaluatedModel], name: str, base: str, model: FlowModel) -> Suite:
        entries = []
        for key, checkpoint in checkpoints.items():
            entries.append(
                {
                    "name": key,
                    "base": self._base.base if checkpoint.folder is None else str(checkpoint.folder),
                    "lora": None if checkpoint.lora is None else str(checkpoint.lora),
                    "revision": self._base.revision if checkpoint.folder is None else None,
                    "max_sequence_length": self._base.max_sequence_length,
                }
            )
        content = {
            **self._settings,
            "name": name,
            "checkpoints": entries,
            "reference": base,
            # Of the model, not of the spec: a picture's key must say what made it.
            "device": str(model.device),
            "dtype": str(model.dtype).removeprefix("torch."),
        }
        return make_suite(content, where="the evaluation")

    def _execute(self, suite: Suite, backend: Backend) -> RunResult:
        number = 1
        while True:
            name = suite.name if number == 1 else f"{suite.name}-{number}"
            named = suite.model_copy(update={"name": name})
            try:
                return execute(named, self._store, backend=backend, observer=self._observer)
            except CardMismatchError:
                number += 1


@contextmanager
def _aside_from_training(device: torch.device) -> Iterator[None]:
    """Inside, no autocast; afterwards, the random states of before. Making a scorer's network draws random weights."""
    import numpy as np
    import torch

    python, legacy = random.getstate(), np.random.get_state()
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices), torch.autocast(device.type, enabled=False):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(legacy)
