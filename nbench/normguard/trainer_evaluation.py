"""The evaluations of a training: when one is due, of which models, and where its figures are kept."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from nbench.normguard.checkpoint import TrainingFolder
from nbench.normguard.config import TrainConfig
from nbench.normguard.evaluate import EvaluatedModel, Evaluation, Evaluator
from nbench.normguard.lockstep import Lockstep
from nbench.normguard.observer import TrainObserver
from nbench.normguard.policy import Policy, Role
from nbench.normguard.tally import Stopwatch
from nbench.runs.files import write_atomic


class TrainerEvaluation:
    """Scores the base and what was trained on held-out prompts, on the main process.

    All processes come to each method, in the same order; where weights are sharded, the others join its forwards.
    """

    def __init__(
        self,
        evaluator: Evaluator | None,
        config: TrainConfig,
        folder: TrainingFolder,
        policy: Policy,
        lockstep: Lockstep,
        observer: TrainObserver,
        watch: Stopwatch,
    ) -> None:
        """Nothing is scored yet.

        Args:
            evaluator: on the main process; None on the others.
            config: of the training.
            folder: of the training.
            policy: in training.
            lockstep: of its processes.
            observer: hears of evaluations.
            watch: takes their seconds.
        """
        self._evaluator, self._config, self._folder = evaluator, config, folder
        self._policy, self._lockstep, self._observer, self._watch = policy, lockstep, observer, watch

    def evaluate(self, epoch: int, saved: Mapping[Role, Path]) -> Evaluation | None:
        """Score the base and what was saved.

        Args:
            epoch: epochs done.
            saved: role -> where its present weights stand.

        Returns:
            What was found, on the main process.
        """
        return self._lockstep.led(lambda: self._score(epoch, saved))

    def evaluate_checkpoint(self, epoch: int, *, only_missing: bool = False) -> Evaluation | None:
        """Score the base and the newest checkpoint, which holds the present weights.

        Args:
            epoch: epochs done.
            only_missing: do so only if the evaluation is due (the base's, or one that a stopped training did not come
                to) and its figures are not there.
        """

        def work() -> Evaluation | None:
            if only_missing and not self._is_missing(epoch):
                return None
            return self._score(epoch, self._saved(self._folder.steps()[-1]) if epoch else {})

        return self._lockstep.led(work)

    def _is_missing(self, epoch: int) -> bool:
        every = self._config.evaluate.every
        due = bool(every) and epoch % every == 0 and epoch < self._config.optim.epochs
        return due and not self._file(epoch).exists()

    def _saved(self, checkpoint: Path) -> dict[Role, Path]:
        """Role -> what was saved of it, as far as it can be evaluated."""
        if self._policy.tuning == "full":
            return {}
        return {role: checkpoint / role for role in ("policy", "ema")}

    def _score(self, epoch: int, saved: Mapping[Role, Path]) -> Evaluation:
        assert self._evaluator is not None
        self._observer.phase("evaluate", 1)
        roles: list[Role] = ["policy", "ema"] if self._config.evaluate.ema else ["policy"]
        models = {"base": EvaluatedModel(self._lockstep.view("reference"))}
        for role in roles:
            if role not in saved:
                continue
            if self._policy.tuning == "full":
                models[role] = EvaluatedModel(self._lockstep.view(role), folder=saved[role])
            else:
                models[role] = EvaluatedModel(self._lockstep.view(role), lora=saved[role])
        with self._watch.section("evaluate"), self._policy.in_model_dtype():
            evaluation = self._evaluator.evaluate(models, name=f"epoch-{epoch:04d}")
        line = {"epoch": epoch, **evaluation.to_json()}
        write_atomic(self._file(epoch), (json.dumps(line, indent=1) + "\n").encode())
        self._observer.evaluation(epoch, evaluation)
        return evaluation

    def _file(self, epoch: int) -> Path:
        return self._folder.path / "evaluations" / f"epoch-{epoch:04d}.json"
