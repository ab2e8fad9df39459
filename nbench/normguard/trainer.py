"""The one training loop: rollout, rewards, advantages, draws, forwards, loss and guards, step.

Processes share the prompts of an epoch, whole groups each; gradients are summed over processes once per optimiser step,
so the number of processes and of accumulated batches changes nothing but float rounding.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

import nbench
from nbench.errors import CheckpointError, InfrastructureError, RunInterruptedError, StoreError, UsageError
from nbench.flow.load import load_model, pick_device
from nbench.flow.norms import rms
from nbench.normguard.advantage import constant_groups, group_advantages
from nbench.normguard.checkpoint import State, TrainingFolder
from nbench.normguard.config import TrainConfig
from nbench.normguard.evaluate import EvaluatedModel, Evaluation, Evaluator
from nbench.normguard.guarding import Guard, additive_guards
from nbench.normguard.losses import eval_ema_decay
from nbench.normguard.losses.reduce import mse
from nbench.normguard.methods import Draw, Epoch, make_method
from nbench.normguard.methods.base import times
from nbench.normguard.observer import Quiet, TrainObserver
from nbench.normguard.policy import Policy, Role
from nbench.normguard.prompting import TrainingPrompts, training_prompts
from nbench.normguard.rewards import RewardModel, Rewards
from nbench.normguard.rollout import PromptBank, Sample, roll_out
from nbench.normguard.tally import Stopwatch, Tally
from nbench.runs.backend import default_backend
from nbench.runs.files import write_atomic
from nbench.scoring.registry import get_scorer

if TYPE_CHECKING:
    from nbench.flow.family import DiffusersFlowModel
    from nbench.scoring.scorer import Scorer

#: so many epochs in a row without anything to learn from end a training
_EMPTY_EPOCHS = 3


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
    accelerator = _accelerator(config, out)
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


def _accelerator(config: TrainConfig, out: Path) -> Any:
    """Accelerate's Accelerator for a training.

    Raises:
        UsageError: it cannot be had as the config wants it.
    """
    from accelerate import Accelerator
    from accelerate.utils import DistributedType, InitProcessGroupKwargs, is_tensorboard_available

    if config.tensorboard and not is_tensorboard_available():
        raise UsageError("tensorboard is not installed: pip install tensorboard, or set tensorboard to false.")
    device = config.model.device
    try:
        accelerator = Accelerator(
            cpu=device == "cpu" or (device == "auto" and pick_device("auto").type == "cpu"),
            mixed_precision=config.optim.mixed_precision,
            log_with="tensorboard" if config.tensorboard else None,
            project_dir=str(out),
            # The other processes wait while the first one evaluates.
            kwargs_handlers=[InitProcessGroupKwargs(timeout=timedelta(hours=12))],
        )
    except ValueError as error:  # its state lives as long as the process
        raise UsageError(
            f"accelerate refuses to start ({' '.join(str(error).split())[:160]}): an earlier training of this process "
            "had other settings; use one process for each."
        ) from error
    if accelerator.distributed_type in (DistributedType.FSDP, DistributedType.DEEPSPEED, DistributedType.MEGATRON_LM):
        raise UsageError(
            f"{accelerator.distributed_type.value} is not supported, since nothing is sharded: start with torchrun or "
            "accelerate launch --multi_gpu."
        )
    if device != "auto":
        wanted, given = pick_device(device), accelerator.device
        if wanted.type != given.type or wanted.index not in (None, given.index or 0):
            raise UsageError(
                f"model.device is {device}, but this process trains on {given}: leave it at auto, and choose GPUs by "
                "CUDA_VISIBLE_DEVICES."
            )
    return accelerator


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
        self.device = torch.device(accelerator.device)
        self.watch = Stopwatch(self.device, exact=exact_times)
        self.rewards = RewardModel(config.rewards, str(self.device), scorers)
        self._given = scorers or {}
        for name in config.evaluate.scorers:
            self._scorer(name, str(self.device))  # an unknown name should not cost a whole training
        self.prompts: TrainingPrompts = training_prompts(config, accelerator.num_processes)
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
        self.policy = Policy(model, config.model, (*self.method.roles, "ema"), seed=config.seed)
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
        model = load_model(self.spec)
        if not isinstance(model, DiffusersFlowModel):
            raise CheckpointError(f"{config.base} has no family adapter, so it cannot be trained.")
        return model

    # The whole training.

    def run(self, started: float) -> TrainResult:
        """Resume or begin, train, and evaluate."""
        config, main = self.config, self.accelerator.is_main_process
        self.resume()
        if len(set(self._gather([self.epoch]))) > 1:
            raise StoreError(f"not every process sees the checkpoints of {self.folder.path}: use a shared folder.")
        if main:  # only now: every process has checked the folder
            self.folder.begin(config)
            if self.epoch == 0:
                self.folder.held_out.unlink(missing_ok=True)  # of a config that did not come through its first epoch
            self.folder.rewind(self.epoch)
        if config.tensorboard:
            self.accelerator.init_trackers("tensorboard")
        self.observer.begin(config, self.epoch)
        evaluator = self._evaluator() if main else None
        if evaluator is not None and self._is_missing_an_evaluation():
            self._evaluate(evaluator, self._saved(self.folder.steps()[-1]) if self.epoch else {})
        while self.epoch < config.optim.epochs:
            record = self.run_epoch()
            last = self.epoch == config.optim.epochs
            due = last or (config.evaluate.every and self.epoch % config.evaluate.every == 0)
            if main:
                self.folder.append(record)
                self.observer.epoch(record)
                if config.tensorboard:
                    self.accelerator.log(_scalars(record), step=self.epoch)
                if last or due or self.epoch % config.checkpoint_every == 0:
                    saved = self.save()
                    if due and not last and evaluator is not None:
                        self._evaluate(evaluator, self._saved(saved))
            self.accelerator.wait_for_everyone()
        # The main process evaluates and reports; one that left earlier would take its launcher, and all others, along.
        result = None if evaluator is None else self._finish(evaluator, started)
        self.accelerator.wait_for_everyone()
        if config.tensorboard:
            self.accelerator.end_training()
        if result is None:
            raise SystemExit(0)
        return result

    def _finish(self, evaluator: Evaluator, started: float) -> TrainResult:
        final = {role: self.policy.save(role, self.folder.final / role) for role in ("policy", "ema")}
        evaluation = self._evaluate(evaluator, final)
        seconds = time.perf_counter() - started
        records = self.folder.records()
        result = {
            "nbench": nbench.__version__,
            "name": self.config.name,
            "epochs": self.epoch,
            "steps": self.step,
            "processes": self.accelerator.num_processes,
            "train_seconds": sum(record["seconds"]["epoch"] for record in records),
            "guards": {guard.name: guard.weight for guard in self.guards},
            "evaluation": evaluation.to_json(),
        }
        write_atomic(self.folder.result, (json.dumps(result, indent=1) + "\n").encode())
        return TrainResult(self.folder, final["policy"], final["ema"], self.epoch, self.step, evaluation, seconds)

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
        gather = self._gather if self.accelerator.num_processes > 1 else None
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
        config, rank, world = self.config, self.accelerator.process_index, self.accelerator.num_processes
        chosen = self.prompts.of_epoch(self.epoch, config.rollout.prompts, config.seed)
        mine = [
            Sample(self.epoch, group, member, prompt)
            for group, prompt in enumerate(chosen)
            if group % world == rank
            for member in range(config.rollout.group_size)
        ]
        self.observer.phase("rollout", len(mine))
        with self.watch.section("rollout"):
            self.bank.prepare(sample.prompt.text for sample in mine)
            rollout = roll_out(
                self.policy.view(self.method.rollout_role),
                self.bank,
                mine,
                steps=config.rollout.steps,
                guidance=self.guidance,
                size=self.size,
                batch_size=config.rollout.batch_size,
                seed=config.seed,
                grid=config.rollout.grid,
                stochastic=config.method if config.method.name == "grpo" else None,
                autocast=self.accelerator.autocast,
                advance=self.observer.advance,
            )
        with self.watch.section("reward"):
            rewards = self.rewards.score(rollout.images, [sample.prompt.text for sample in mine])
        for i, sound in enumerate(rollout.clean.isfinite().flatten(1).all(1).tolist()):
            if not sound:
                rewards.total[i], rewards.reasons[i] = float("nan"), "the picture is not finite"
        rollout.images.clear()
        rows = [
            (sample.group, sample.member, float(rewards.total[i]), rewards.reasons[i]) for i, sample in enumerate(mine)
        ]
        everyone = sorted(self._gather(rows), key=lambda row: row[:2])
        advantages, facts = self._advantages(everyone)
        facts["reward"]["terms"] = self._term_means(rewards)
        local = torch.tensor([advantages[sample.group, sample.member] for sample in mine], dtype=torch.float64)
        return Epoch(rollout, rewards.total, local, self.sigmas), facts

    def _term_means(self, rewards: Rewards) -> dict[str, float | None]:
        rows = [(name, values[values.isfinite()].tolist()) for name, values in rewards.terms.items()]
        merged: dict[str, list[float]] = {}
        for name, values in self._gather(rows):
            merged.setdefault(name, []).extend(values)
        return {name: sum(values) / len(values) if values else None for name, values in merged.items()}

    def _advantages(
        self, rows: Sequence[tuple[int, int, float, str | None]]
    ) -> tuple[dict[tuple[int, int], float], dict[str, Any]]:
        """(group, member) -> advantage, 0 for failed pictures; and figures of the epoch's rewards.

        Raises:
            UsageError: in the first epoch: nothing can be learned from the reward.
        """
        settings = self.config.advantage
        found = {row[:2]: 0.0 for row in rows}
        kept = [row for row in rows if row[2] == row[2]]
        reasons: dict[str, int] = {}
        for row in rows:
            if row[3] is not None:
                reasons[row[3]] = reasons.get(row[3], 0) + 1
        facts: dict[str, Any] = {
            "samples": len(rows),
            "failed": len(rows) - len(kept),
            "reasons": dict(sorted(reasons.items(), key=lambda item: -item[1])[:3]),
            "reward": {"mean": None, "std": None},
            "constant_groups": 0,
        }
        if not kept:
            if self.epoch == 0:
                raise UsageError(
                    f"all {len(rows)} pictures of the first epoch failed to get a reward, the first because: "
                    f"{next(iter(reasons), 'unknown')}. Choose other rewards or prompts."
                )
            return found, facts
        values = torch.tensor([row[2] for row in kept], dtype=torch.float64)
        groups = torch.tensor([row[0] for row in kept])
        constant = constant_groups(values, groups)
        if bool(constant.all()) and self.epoch == 0:
            raise UsageError(
                f"the reward is the same for all pictures of each prompt (the first: {values[0]:.6g}), so there is "
                "nothing to learn from it. Choose another reward, or a base whose pictures of a prompt differ."
            )
        advantages = group_advantages(values, groups, std=settings.std, delta=settings.delta, clip=settings.clip)
        for row, advantage in zip(kept, advantages.tolist(), strict=True):
            found[row[:2]] = advantage
        facts["reward"] = {"mean": float(values.mean()), "std": float(values.std(correction=0))}
        facts["constant_groups"] = len(groups[constant].unique())
        facts["advantage_std"] = float(advantages.std(correction=0))
        return found, facts

    # Updates.

    def updates(self, epoch: Epoch, tally: Tally) -> dict[str, Any]:
        """All optimiser steps of an epoch."""
        config = self.config
        units = self.method.units(epoch)
        keys = {self._key(epoch, unit): unit for unit in units}
        order = sorted(self._gather(list(keys)))
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
        config, method = self.config, self.method
        rows = total * method.rows_per_unit * config.times.count
        per_batch = max(1, config.optim.batch_size // method.rows_per_unit)
        for tensor in self.trained.values():
            tensor.grad = torch.zeros_like(tensor)  # also where this process has no units
        probes: dict[str, _Probe] = {guard.name: _Probe(self.trained) for guard in self.guards if guard.weight is None}
        loss_sum = torch.zeros((), dtype=torch.float64, device=self.device)
        for index in range(config.times.count):
            for start in range(0, len(units), per_batch):
                chunk = units[start : start + per_batch]
                draw = method.draw(epoch, chunk, index, self.bank)
                v = self.velocities(draw, monitor=index == 0)
                with self.watch.section("loss"):
                    loss = self._loss(draw, v, rows, tally, probes)
                loss_sum += loss.detach()
                with self.watch.section("backward"):
                    loss.backward()
                self.observer.advance(len(chunk))
        with self.watch.section("step"):
            self._sum_gradients()
            for guard in self.guards:
                if guard.name in probes:
                    self._calibrate(guard, probes[guard.name])
            norm = torch.nn.utils.clip_grad_norm_(self.trained.values(), config.optim.grad_clip)
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
        return float(self._reduced(loss_sum)), float(norm)

    def velocities(self, draw: Draw, *, monitor: bool = False) -> dict[Role, Tensor]:
        """Velocities at a draw: the policy's with gradient, and those that the method and the guards compare it with.

        Args:
            draw: where.
            monitor: also the reference's, for the log.
        """
        model = self.policy.model
        wanted = dict.fromkeys((*self.method.forwards, *(guard.role for guard in self.guards if guard.weight != 0)))
        if monitor or any(guard.weight == 0 for guard in self.guards):
            wanted["reference"] = None
        x = draw.x.to(model.dtype)
        found: dict[Role, Tensor] = {}
        for role in wanted:
            with self.watch.section(f"forward_{role}"), torch.no_grad(), self.accelerator.autocast():
                found[role] = self.policy.view(role).velocity(x, draw.t, draw.cond, guidance=self.guidance)
        with self.watch.section("forward_policy"), self.accelerator.autocast():
            found["policy"] = self.policy.view("policy").velocity(x, draw.t, draw.cond, guidance=self.guidance)
        return found

    def _loss(
        self, draw: Draw, v: Mapping[Role, Tensor], rows: int, tally: Tally, probes: Mapping[str, _Probe]
    ) -> Tensor:
        """The share of this draw in the objective's mean over `rows` rows, guards included."""
        result = self.method.loss(draw, v)
        places = draw.t if draw.step is None else draw.step
        tally.add("loss", result.rows, draw.t)
        for name, values in result.stats.items():
            tally.add(name, values, places)
        loss = result.rows.sum() / rows
        for guard in self.guards:
            if guard.weight is None:
                probes[guard.name].add(guard, v, rows)
            with torch.set_grad_enabled(bool(guard.weight)):  # without a weight it is only measured
                penalty = guard.penalty(draw, v)
            if guard.weight:
                loss = loss + guard.weight * (penalty.sum() / rows)
            tally.add(f"{guard.name}/penalty", penalty, draw.t)
            tally.add(f"{guard.name}/active", (penalty > 0).double(), draw.t)
        if "reference" in v:
            _monitor(v, draw, tally)
        return loss

    def _sum_gradients(self) -> None:
        if self.accelerator.num_processes == 1:
            return
        grads = [tensor.grad for tensor in self.trained.values() if tensor.grad is not None]
        flat = self._reduced(torch.cat([grad.flatten() for grad in grads]))
        for grad, part in zip(grads, flat.split([grad.numel() for grad in grads]), strict=True):
            grad.copy_(part.view_as(grad))

    def _calibrate(self, guard: Guard, probe: _Probe) -> None:
        """Set a guard's weight at the first step where it is active; it counts from the next step on."""
        gradient = self._reduced(probe.flat())
        if not bool(gradient.any()):
            return
        active, norm = self._reduced(torch.tensor([probe.active, probe.norm], dtype=torch.float64, device=self.device))
        base = torch.cat([t.grad.flatten() for t in self.trained.values() if t.grad is not None]).norm()
        if not bool(base):
            return  # a weight of 0 would switch the guard off for good
        weight = guard.calibrate(float(base), float(gradient.norm()), float(norm / active))
        self.observer.note(f"{guard.name}: weight {weight:.4g}, calibrated at optimiser step {self.step + 1}.")

    def _reduced(self, tensor: Tensor) -> Tensor:
        if self.accelerator.num_processes == 1:
            return tensor
        summed: Tensor = self.accelerator.reduce(tensor, reduction="sum")
        return summed

    def _gather(self, rows: list[Any]) -> list[Any]:
        if self.accelerator.num_processes == 1:
            return rows
        from accelerate.utils import gather_object

        found: list[Any] = gather_object(rows)
        return found

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
        for role in self.policy.roles:
            prefix = f"{role}/"
            self.policy.load(
                role,
                {name.removeprefix(prefix): value for name, value in state.tensors.items() if name.startswith(prefix)},
            )
        moments = {}
        for i, name in enumerate(self.trained):
            if f"exp_avg/{name}" in state.tensors:
                moments[i] = {
                    "step": torch.tensor(float(state.step)),
                    "exp_avg": state.tensors[f"exp_avg/{name}"],
                    "exp_avg_sq": state.tensors[f"exp_avg_sq/{name}"],
                }
        self.optimizer.load_state_dict({"state": moments, "param_groups": self.optimizer.state_dict()["param_groups"]})
        for guard in self.guards:
            guard.weight = state.facts["guards"][guard.name]
        self.epoch, self.step, self._empty = state.epoch, state.step, state.facts["empty"]

    def state(self) -> State:
        """Everything that resuming needs."""
        tensors = {
            f"{role}/{name}": tensor.detach().cpu().clone().contiguous()
            for role in self.policy.roles
            for name, tensor in self.policy.tensors(role).items()
        }
        for name, tensor in self.trained.items():
            for moment in ("exp_avg", "exp_avg_sq"):
                if moment in self.optimizer.state[tensor]:
                    tensors[f"{moment}/{name}"] = self.optimizer.state[tensor][moment].cpu().clone().contiguous()
        facts = {
            "base": self.policy.model.base_hash,
            "guards": {guard.name: guard.weight for guard in self.guards},
            "empty": self._empty,
            "nbench": nbench.__version__,
        }
        return State(self.epoch, self.step, facts, tensors)

    def save(self) -> Path:
        """Write a checkpoint of the present epoch.

        Raises:
            StoreError: the disk refuses.
        """

        def export(building: Path) -> None:
            if self.policy.tuning == "lora":  # whole pipelines are only written at the end
                for role in ("policy", "ema"):
                    self.policy.save(role, building / role)

        return self.folder.save(self.state(), export)

    def _saved(self, checkpoint: Path) -> dict[str, Path]:
        """Role -> what was saved of it, as far as it can be evaluated."""
        if self.policy.tuning == "full":
            return {}
        return {role: checkpoint / role for role in ("policy", "ema")}

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

    def _evaluate(self, evaluator: Evaluator, saved: Mapping[str, Path]) -> Evaluation:
        """Score the base and what was saved on the held-out prompts."""
        self.observer.phase("evaluate", 1)
        roles: list[Role] = ["policy", "ema"] if self.config.evaluate.ema else ["policy"]
        models = {"base": EvaluatedModel(self.policy.view("reference"))}
        for role in roles:
            if role not in saved:
                continue
            if self.policy.tuning == "full":
                models[role] = EvaluatedModel(self.policy.view(role), folder=saved[role])
            else:
                models[role] = EvaluatedModel(self.policy.view(role), lora=saved[role])
        with self.watch.section("evaluate"), self.policy.in_model_dtype():
            evaluation = evaluator.evaluate(models, name=f"epoch-{self.epoch:04d}")
        line = {"epoch": self.epoch, **evaluation.to_json()}
        write_atomic(self._evaluation_file(), (json.dumps(line, indent=1) + "\n").encode())
        self.observer.evaluation(self.epoch, evaluation)
        return evaluation

    def _evaluation_file(self) -> Path:
        return self.folder.path / "evaluations" / f"epoch-{self.epoch:04d}.json"

    def _is_missing_an_evaluation(self) -> bool:
        """Whether the base's, or one that a stopped training did not come to, is to be made before the next epoch."""
        every = self.config.evaluate.every
        due = bool(every) and self.epoch % every == 0 and self.epoch < self.config.optim.epochs
        return due and not self._evaluation_file().exists()


class _Probe:
    """Gradient of a guard that is not calibrated yet, over one optimiser step."""

    def __init__(self, trained: Mapping[str, torch.nn.Parameter]) -> None:
        self._trained = list(trained.values())
        self._sums = [torch.zeros_like(tensor) for tensor in self._trained]
        self.active = 0.0
        self.norm = 0.0

    def add(self, guard: Guard, v: Mapping[Role, Tensor], rows: int) -> None:
        """Take in one batch; its graph stays for the base loss."""
        linear = guard.linear(v)
        active = linear.detach() > 0
        if not bool(active.any()):
            return
        self.active += float(active.sum())
        self.norm += float(guard.reference_norm(v)[active].double().sum())
        for total, grad in zip(
            self._sums,
            torch.autograd.grad(linear.sum() / rows, self._trained, retain_graph=True, allow_unused=True),
            strict=True,
        ):
            if grad is not None:
                total += grad

    def flat(self) -> Tensor:
        """All in one vector."""
        return torch.cat([total.flatten() for total in self._sums])


@torch.no_grad()
def _monitor(v: Mapping[Role, Tensor], draw: Draw, tally: Tally) -> None:
    """Log norm ratio, squared distance and cosine of the policy's and the reference's velocities."""
    theta, ref = v["policy"].detach().float(), v["reference"].float()
    tally.add("norm_ratio", rms(theta) / rms(ref).clamp_min(1e-12), draw.t)
    tally.add("reference_distance", mse(theta, ref), draw.t)
    tally.add("cosine", torch.nn.functional.cosine_similarity(theta.flatten(1), ref.flatten(1)), draw.t)


def _scalars(record: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """Numbers of a log line, without those by bucket, as "a/b"."""
    found: dict[str, float] = {}
    for key, value in record.items():
        if isinstance(value, Mapping) and key not in ("by", "reasons"):
            found.update(_scalars(value, f"{prefix}{key}/"))
        elif isinstance(value, int | float):
            found[f"{prefix}{key}"] = float(value)
    return found
