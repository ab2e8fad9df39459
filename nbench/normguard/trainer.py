"""The one training loop: rollout, rewards, advantages, draws, forwards, loss and guards, step.

Processes share the prompts of an epoch, whole groups each; gradients are summed over processes once per optimiser step,
so the number of processes and of accumulated batches changes nothing but float rounding. Processes may share the
weights too (`nbench.normguard.sharding`); then they keep in step (`nbench.normguard.lockstep`).
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

import nbench
from nbench.errors import CheckpointError, InfrastructureError, RunInterruptedError, StoreError, UsageError
from nbench.flow.load import load_model
from nbench.normguard.checkpoint import State, TrainingFolder
from nbench.normguard.config import TrainConfig
from nbench.normguard.epoch_rewards import advantages, term_means
from nbench.normguard.evaluate import Evaluator
from nbench.normguard.guarding import Guard, additive_guards
from nbench.normguard.lockstep import Lockstep
from nbench.normguard.log_record import scalars
from nbench.normguard.losses import eval_ema_decay
from nbench.normguard.methods import Epoch, make_method
from nbench.normguard.methods.base import times
from nbench.normguard.objective import Objective
from nbench.normguard.observer import Quiet, TrainObserver
from nbench.normguard.policy import Policy, Role
from nbench.normguard.probe import Probe, sum_gradients
from nbench.normguard.processes import Processes, make_accelerator
from nbench.normguard.prompting import TrainingPrompts, training_prompts
from nbench.normguard.result import TrainResult, write_result
from nbench.normguard.rewards import RewardModel
from nbench.normguard.rollout import PromptBank, Rollout, Sample, roll_out
from nbench.normguard.sharding import settle, whole
from nbench.normguard.tally import Stopwatch, Tally
from nbench.normguard.trainer_evaluation import TrainerEvaluation
from nbench.normguard.training_state import restore, weights_and_moments
from nbench.runs.backend import default_backend
from nbench.scoring.registry import get_scorer

if TYPE_CHECKING:
    from nbench.flow.family import DiffusersFlowModel
    from nbench.scoring.scorer import Scorer

__all__ = ["Quiet", "TrainResult", "Trainer", "train"]

#: so many epochs in a row without anything to learn from end a training
_EMPTY_EPOCHS = 3

#: roles that are written for use
_SAVED: tuple[Role, ...] = ("policy", "ema")


def train(
    config: TrainConfig,
    out: Path,
    *,
    observer: TrainObserver | None = None,
    scorers: dict[str, Scorer] | None = None,
) -> TrainResult:
    """Train to the end, from the newest checkpoint in `out` if there is one.

    Args:
        config: what to do.
        out: folder of the training.
        observer: hears of progress.
        scorers: those to use in place of the registry's, by name.

    Raises:
        UsageError: something that the config names is missing or unfit, or nothing can be learned from the reward.
        CardMismatchError: `out` holds a training with other settings.
        RunLockedError: another process trains in `out`.
        StoreError: the disk refuses.
        RunInterruptedError: the user pressed Ctrl-C; the same command goes on.
    """
    started = time.perf_counter()
    accelerator = make_accelerator(config, out)
    folder = TrainingFolder(out)
    folder.check(config)  # before the lock, which would be one more file in a folder that is not ours
    try:
        if not accelerator.is_main_process:
            return Trainer(config, folder, accelerator, observer or Quiet(), scorers).run(started)
        with folder.locked():
            folder.check(config)  # again: another process may have begun, and ended, in between
            return Trainer(config, folder, accelerator, observer or Quiet(), scorers).run(started)
    except KeyboardInterrupt:
        raise RunInterruptedError(
            f"training {config.name!r} was stopped; its last checkpoint is kept. Go on with the same command."
        ) from None
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise InfrastructureError(
            f"the device has not enough memory: lower optim.batch_size ({config.optim.batch_size}), rollout.batch_size "
            f"({config.rollout.batch_size}) or evaluate.batch_size ({config.evaluate.batch_size}), or set "
            "model.gradient_checkpointing."
        ) from error


class Trainer:
    """A loaded training.

    Attributes:
        policy: the model with its roles.
        method: of the config.
        guards: additive ones.
        watch: seconds by section.
    """

    def __init__(
        self,
        config: TrainConfig,
        folder: TrainingFolder,
        accelerator: Any,
        observer: TrainObserver,
        scorers: dict[str, Scorer] | None = None,
        *,
        exact_times: bool = False,
    ) -> None:
        """Look up everything that is named, then load the model.

        Args:
            config: what to do.
            folder: where.
            accelerator: accelerate's, for device, processes and mixed precision.
            observer: hears of progress.
            scorers: those to use in place of the registry's.
            exact_times: wait for a GPU's kernels, so that `watch` is right there too.

        Raises:
            UsageError: something that the config names is missing or unfit.
        """
        self.config, self.folder, self.accelerator, self.observer = config, folder, accelerator, observer
        self.processes = Processes(accelerator)
        self.device = self.processes.device
        self.watch = Stopwatch(self.device, exact=exact_times)
        self.rewards = RewardModel(config.rewards, str(self.device), scorers)
        self._given = scorers or {}
        for name in config.evaluate.scorers:
            self._scorer(name, str(self.device))  # an unknown name should not cost a whole training
        self.prompts: TrainingPrompts = training_prompts(config, self.processes.count)
        self.method = make_method(config)
        self.guards: list[Guard] = additive_guards(config.guards)
        model = self._load()
        self.guidance = model.default_guidance if config.model.guidance is None else config.model.guidance
        self.size = (config.model.height or model.resolution[0], config.model.width or model.resolution[1])
        self.sigmas = model.sigmas(
            config.rollout.steps, grid=config.rollout.grid, height=self.size[0], width=self.size[1]
        )
        if config.method.name != "grpo":  # too few times between the bounds should not cost a rollout
            times(Sample(0, 0, 0, self.prompts.trained[0]), config.times, self.sigmas, config.seed)
        self.bank = PromptBank(model, guidance=self.guidance, offload=config.model.offload_text_encoders)
        shard = self.processes.shard if self.processes.sharded else None
        self.policy = Policy(model, config.model, (*self.method.roles, "ema"), seed=config.seed, shard=shard)
        if self.processes.sharded:
            settle(model, self.device)
        text = self.prompts.trained[0].text
        self.lockstep = Lockstep(
            self.processes, self.policy, self.bank, text=text, guidance=self.guidance, size=self.size
        )
        autocast = accelerator.autocast
        self.objective = Objective(
            self.method, self.policy, guidance=self.guidance, autocast=autocast, watch=self.watch
        )
        self.trained = self.policy.tensors("policy")
        self.optimizer = torch.optim.AdamW(
            list(self.trained.values()),
            lr=config.optim.learning_rate,
            betas=config.optim.betas,
            eps=config.optim.eps,
            weight_decay=config.optim.weight_decay,
        )
        self.epoch = self.step = self._empty = 0

    def _load(self) -> DiffusersFlowModel:
        from nbench.flow.family import DiffusersFlowModel

        config = self.config.model
        self.spec = config.spec(str(self.device))
        if config.tuning == "full" and self.spec.dtype != "float32":
            raise UsageError("full tuning trains the transformer itself: set model.dtype to float32 (or auto).")
        # What is sharded goes to its device part by part, so that no GPU holds all of it at any time.
        model = load_model(replace(self.spec, device="cpu") if self.processes.sharded else self.spec)
        if not isinstance(model, DiffusersFlowModel):
            raise CheckpointError(f"{config.base} has no family adapter, so it cannot be trained.")
        return model

    # The whole training.

    def run(self, started: float) -> TrainResult:
        """Resume or begin, train, and evaluate."""
        config, main = self.config, self.processes.main
        self.resume()
        if len(set(self.processes.gather([self.epoch]))) > 1:
            raise StoreError(f"not every process sees the checkpoints of {self.folder.path}: use a shared folder.")
        if main:  # only now: every process has checked the folder
            self.folder.begin(config)
            if self.epoch == 0:
                self.folder.held_out.unlink(missing_ok=True)  # of a config that did not come through its first epoch
            self.folder.rewind(self.epoch)
        if config.tensorboard:
            self.accelerator.init_trackers("tensorboard")
        self.observer.begin(config, self.epoch)
        evaluations = TrainerEvaluation(
            self._evaluator() if main else None,
            config,
            self.folder,
            self.policy,
            self.lockstep,
            self.observer,
            self.watch,
        )
        evaluations.evaluate_checkpoint(self.epoch, only_missing=True)
        while self.epoch < config.optim.epochs:
            record = self.run_epoch()
            last = self.epoch == config.optim.epochs
            due = last or (config.evaluate.every and self.epoch % config.evaluate.every == 0)
            if main:
                self.folder.append(record)
                self.observer.epoch(record)
                if config.tensorboard:
                    self.accelerator.log(scalars(record), step=self.epoch)
            if last or due or self.epoch % config.checkpoint_every == 0:
                self.save()
                if due and not last:
                    evaluations.evaluate_checkpoint(self.epoch)
            self.processes.wait()
        # The main process evaluates and reports; one that left earlier would take its launcher, and all others, along.
        result = self._finish(evaluations, started)
        self.processes.wait()
        if config.tensorboard:
            self.accelerator.end_training()
        if result is None:
            raise SystemExit(0)
        return result

    def _finish(self, evaluations: TrainerEvaluation, started: float) -> TrainResult | None:
        """Write what was trained, and what became of it; the result on the main process."""
        main = self.processes.main
        final = {role: self.policy.save(role, self.folder.final / role, write=main) for role in _SAVED}
        evaluation = evaluations.evaluate(self.epoch, final)
        if evaluation is None:
            return None
        seconds = time.perf_counter() - started
        done = TrainResult(self.folder, final["policy"], final["ema"], self.epoch, self.step, evaluation, seconds)
        write_result(done, self.config.name, self.processes, self.guards)
        return done

    # One epoch.

    def run_epoch(self) -> dict[str, Any]:
        """Roll out, score and update once; returns the epoch's line of the log.

        Raises:
            UsageError: there is nothing to learn from: every picture failed, or every group's rewards are equal.
        """
        started = time.perf_counter()
        self.watch.seconds.clear()
        torch.manual_seed(self.config.seed + 1_000_003 * self.epoch)  # only a LoRA's dropout draws from it
        self.policy.check()
        tally = Tally()
        epoch, facts = self.collect()
        self.method.before_updates(self.policy)
        learned = self.updates(epoch, tally)
        self.method.after_epoch(self.policy, self.step)
        self.epoch += 1
        self._empty = 0 if learned["updates"] and facts.get("advantage_std") else self._empty + 1
        if self._empty >= _EMPTY_EPOCHS:
            raise UsageError(
                f"for {_EMPTY_EPOCHS} epochs there was nothing to learn from: all rewards of each prompt were equal or "
                "failed. Look at log.jsonl, and use a reward that tells pictures of one prompt apart."
            )
        gather = self.processes.gather if self.processes.count > 1 else None
        seconds = time.perf_counter() - started
        return {
            "epoch": self.epoch - 1,
            "step": self.step,
            "samples": facts["samples"],
            **{key: value for key, value in facts.items() if key != "samples"},
            **learned,
            "guards": {guard.name: guard.weight for guard in self.guards},
            "stats": tally.summary(gather),
            "seconds": {"epoch": seconds, **dict(self.watch.seconds)},
            "samples_per_second": facts["samples"] / seconds,
        }

    def collect(self) -> tuple[Epoch, dict[str, Any]]:
        """This process's pictures with their rewards and advantages, and what the log says of all processes'."""
        config, processes = self.config, self.processes
        chosen = self.prompts.of_epoch(self.epoch, config.rollout.prompts, config.seed)
        mine = [
            Sample(self.epoch, group, member, prompt)
            for group, prompt in enumerate(chosen)
            if group % processes.count == processes.index
            for member in range(config.rollout.group_size)
        ]
        self.observer.phase("rollout", len(mine))
        with self.watch.section("rollout"):
            rollout = self._roll_out(mine)
        with self.watch.section("reward"):
            rewards = self.rewards.score(rollout.images, [sample.prompt.text for sample in mine])
        for i, sound in enumerate(rollout.clean.isfinite().flatten(1).all(1).tolist()):
            if not sound:
                rewards.total[i], rewards.reasons[i] = float("nan"), "the picture is not finite"
        rollout.images.clear()
        rows = [
            (sample.group, sample.member, float(rewards.total[i]), rewards.reasons[i]) for i, sample in enumerate(mine)
        ]
        everyone = sorted(processes.gather(rows), key=lambda row: row[:2])
        found, facts = advantages(everyone, config.advantage, first=self.epoch == 0)
        facts["reward"]["terms"] = term_means(rewards, processes.gather)
        own = torch.tensor([found[sample.group, sample.member] for sample in mine], dtype=torch.float64)
        return Epoch(rollout, rewards.total, own, self.sigmas), facts

    def _roll_out(self, samples: Sequence[Sample]) -> Rollout:
        """Make pictures, in step with processes that make more of them."""
        config, role = self.config.rollout, self.method.rollout_role
        batches = math.ceil(len(samples) / config.batch_size)
        ahead = self.lockstep.most(batches) - batches
        self.bank.prepare(sample.prompt.text for sample in samples)
        rollout = roll_out(
            self.policy.view(role),
            self.bank,
            samples,
            steps=config.steps,
            guidance=self.guidance,
            size=self.size,
            batch_size=config.batch_size,
            seed=self.config.seed,
            grid=config.grid,
            stochastic=self.config.method if self.config.method.name == "grpo" else None,
            autocast=self.accelerator.autocast,
            advance=self.observer.advance,
        )
        self.lockstep.idle(role, ahead * config.steps)
        return rollout

    # Updates.

    def updates(self, epoch: Epoch, tally: Tally) -> dict[str, Any]:
        """All optimiser steps of an epoch."""
        config = self.config
        units = self.method.units(epoch)
        keys = {self._key(epoch, unit): unit for unit in units}
        order = sorted(self.processes.gather(list(keys)))
        count = config.optim.updates_per_epoch
        losses: list[float] = []
        norms: list[float] = []
        done = 0
        self.observer.phase("update", len(units) * config.times.count)
        for update in range(count):
            chosen = order[len(order) * update // count : len(order) * (update + 1) // count]
            if not chosen:
                continue
            mine = [keys[key] for key in chosen if key in keys]
            loss, norm = self._update(epoch, mine, len(chosen), tally)
            losses.append(loss)
            norms.append(norm)
            done += 1
        return {
            "units": len(order),
            "updates": done,
            "loss": sum(losses) / len(losses) if losses else None,
            "grad_norm": sum(norms) / len(norms) if norms else None,
            "learning_rate": self.optimizer.param_groups[0]["lr"],
        }

    def _key(self, epoch: Epoch, unit: tuple[int, ...]) -> tuple[int, ...]:
        """Of a unit, the same whatever process holds it; sorting by it shuffles."""
        first = epoch.samples[unit[0]]
        return first.seed(self.config.seed, "order"), first.group, first.member

    def _update(self, epoch: Epoch, units: Sequence[tuple[int, ...]], total: int, tally: Tally) -> tuple[float, float]:
        """One optimiser step on `units`, which are this process's share of `total`: (loss, gradient norm)."""
        config, method, objective = self.config, self.method, self.objective
        rows = total * method.rows_per_unit * config.times.count
        per_batch = max(1, config.optim.batch_size // method.rows_per_unit)
        chunks = [units[start : start + per_batch] for start in range(0, len(units), per_batch)]
        ahead = self.lockstep.most(len(chunks)) - len(chunks)
        for tensor in self.trained.values():
            tensor.grad = torch.zeros_like(tensor)  # also where this process has no units
        probes: dict[str, Probe] = {}
        for guard in self.guards:
            if guard.weight is None:
                probes[guard.name] = Probe(self.trained, self.processes)
        loss_sum = torch.zeros((), dtype=torch.float64, device=self.device)
        for index in range(config.times.count):
            for chunk in chunks:
                draw = method.draw(epoch, chunk, index, self.bank)
                v = objective.velocities(draw, self.guards, monitored=index == 0)
                with self.watch.section("loss"):
                    loss = objective.loss(draw, v, self.guards, rows=rows, tally=tally, probes=probes)
                loss_sum += loss.detach()
                with self.watch.section("backward"):
                    loss.backward()
                self.observer.advance(len(chunk))
            for _ in range(ahead):
                objective.idle(self.lockstep.draw(), self.guards, probes, monitored=index == 0)
        with self.watch.section("step"):
            sum_gradients(self.trained.values(), self.processes)
            for guard in self.guards:
                weight = probes[guard.name].calibrate(guard) if guard.name in probes else None
                if weight is not None:
                    self.observer.note(
                        f"{guard.name}: weight {weight:.4g}, calibrated at optimiser step {self.step + 1}."
                    )
            norm = whole(torch.nn.utils.clip_grad_norm_(self.trained.values(), config.optim.grad_clip))
            if not bool(norm.isfinite()):
                raise InfrastructureError(
                    f"the gradient of optimiser step {self.step + 1} is not finite: the training diverged. Lower "
                    "optim.learning_rate, and resume from an earlier checkpoint by deleting the later ones."
                )
            warm = min(1.0, (self.step + 1) / (config.optim.warmup + 1))
            for group in self.optimizer.param_groups:
                group["lr"] = config.optim.learning_rate * warm
            self.optimizer.step()
            self.step += 1
            if self.step % config.optim.ema.every == 0:
                # Indexed by optimiser steps, from 0, as in the source, not by averages.
                self.policy.blend("ema", eval_ema_decay(self.step - 1, most=config.optim.ema.decay))
        return float(self.processes.sum(loss_sum)), float(norm)

    # Saving, resuming, evaluating.

    def resume(self) -> None:
        """Go to where the folder's newest checkpoint stands; the beginning without one."""
        state = self.folder.latest()
        if state is None:
            return
        if state.facts["base"] != self.policy.model.base_hash:
            raise CheckpointError(
                f"{self.folder.path} was trained from another base than {self.config.model.base} now is: use another "
                "--out."
            )
        restore(self.policy, self.optimizer, state.tensors, state.step)
        for guard in self.guards:
            guard.weight = state.facts["guards"][guard.name]
        self.epoch, self.step, self._empty = state.epoch, state.step, state.facts["empty"]

    def save(self) -> Path | None:
        """Write a checkpoint of the present epoch; all processes come here, and the main one gets its folder.

        Raises:
            StoreError: the disk refuses.
        """
        main = self.processes.main
        if not main and not self.policy.sharded:
            return None
        tensors = weights_and_moments(self.policy, self.optimizer, keep=main)
        if not main:
            return None
        facts = {
            "base": self.policy.model.base_hash,
            "guards": {guard.name: guard.weight for guard in self.guards},
            "empty": self._empty,
            "nbench": nbench.__version__,
        }

        def export(building: Path) -> None:
            if self.policy.tuning == "lora":  # whole pipelines are only written at the end
                for role in _SAVED:
                    self.policy.save(role, building / role)

        return self.folder.save(State(self.epoch, self.step, facts, tensors), export)

    def _evaluator(self) -> Evaluator:
        config = self.config.evaluate
        scorers = list(dict.fromkeys([*(term.scorer for term in self.config.rewards), *config.scorers]))
        return Evaluator(
            store=self.folder.path / "eval",
            prompts=self.prompts.held_out,
            prompts_file=self.folder.held_out,
            base=replace(self.spec, device="auto"),
            steps=config.steps,
            scorers=scorers,
            guidance=self.guidance,
            seeds=config.seeds,
            seed=self.config.seed,
            grid=self.config.rollout.grid,
            size=self.size,
            batch_size=config.batch_size,
            backend=replace(default_backend(), scorer=self._scorer),
        )

    def _scorer(self, name: str, device: str) -> Scorer:
        """A scorer of the evaluation; those of the reward are not loaded a second time."""
        return self.rewards.scorers.get(name) or self._given.get(name) or get_scorer(name, device)
