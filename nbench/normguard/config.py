"""What a training is asked to do: one YAML file, checked before anything is loaded. Every default stands here."""

from __future__ import annotations

import re
from typing import Annotated, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from nbench.flow.spec import CheckpointSpec

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")

Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, lt=1)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class LoraConfig(_Part):
    """Low-rank adapters; None takes the family's usual value, see `nbench.normguard.policy.LORA_DEFAULTS`.

    Attributes:
        rank: of each adapter.
        alpha: adapters are scaled by alpha / rank.
        targets: names of the linear layers that get one.
    """

    rank: Count | None = None
    alpha: Positive | None = None
    targets: tuple[str, ...] | None = None


class ModelConfig(_Part):
    """The checkpoint that is trained.

    Attributes:
        base: a diffusers folder, a hub id, or a bundled pocket checkpoint.
        revision: hub revision.
        tuning: "lora" trains adapters, and the reference is the base with adapters off; "full" trains the whole
            transformer, beside a frozen copy of it.
        lora: see `LoraConfig`.
        dtype: of frozen weights and forwards; "auto" is float32 on a CPU and bfloat16 elsewhere. Trained weights are
            always float32.
        device: "auto" is the accelerator's.
        guidance: one guidance for rollout, loss, norms and evaluation; None is the checkpoint's default.
        height, width: of the pictures, in pixels; None is the checkpoint's.
        max_sequence_length: tokens that T5 prompts are padded to; None is the checkpoint's.
        gradient_checkpointing: save memory, at one more forward.
        offload_text_encoders: keep text encoders on the CPU but while they encode.
    """

    base: str
    revision: str | None = None
    tuning: Literal["lora", "full"] = "lora"
    lora: LoraConfig = LoraConfig()
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    device: str = "auto"
    guidance: NotNegative | None = None
    height: Count | None = None
    width: Count | None = None
    max_sequence_length: Count | None = None
    gradient_checkpointing: bool = False
    offload_text_encoders: bool = True

    def spec(self, device: str, *, name: str = "base", lora: str | None = None) -> CheckpointSpec:
        """The base on a torch device, with `lora` in or not, as `nbench.flow.load` takes it."""
        dtype = self.dtype
        if dtype == "auto":
            dtype = "float32" if device.startswith("cpu") or self.tuning == "full" else "bfloat16"
        return CheckpointSpec(
            name=name,
            base=self.base,
            lora=lora,
            dtype=dtype,
            device=device,
            revision=self.revision,
            max_sequence_length=self.max_sequence_length,
        )

    @model_validator(mode="after")
    def _both_sides(self) -> ModelConfig:
        if (self.height is None) != (self.width is None):
            raise ValueError("give both height and width, or neither")
        return self


class NftConfig(_Part):
    """DiffusionNFT; see `nbench.normguard.losses.nft`.

    Attributes:
        beta: strength of the implicit guidance.
        adv_clip: A_max.
        adv_mode: which side of the advantage counts.
        self_normalize: divide by the mean absolute error, as the public code does.
        old_decay: schedule of the rollout policy's decay, 0 to 2.
    """

    name: Literal["nft"] = "nft"
    beta: Positive = 1.0
    adv_clip: Positive = 5.0
    adv_mode: Literal["all", "positive_only", "negative_only", "one_only", "binary"] = "all"
    self_normalize: bool = True
    old_decay: Literal[0, 1, 2] = 1


class AwmConfig(_Part):
    """Advantage Weighted Matching; see `nbench.normguard.losses.awm`.

    Attributes:
        weighting, p: of the log-probability.
        clip: of the ratio; 1 is inert.
        adv_clip, advantage_max: the scale of advantages.
        anchor_weight: weight of the velocity distance to a slow average of the policy.
        anchor_decay: the average's decay is min(anchor_decay, 0.001 step), once per epoch.
    """

    name: Literal["awm"] = "awm"
    weighting: Literal["uniform", "t", "t2", "huber", "ghuber"] = "ghuber"
    p: Positive = 0.25
    clip: NotNegative = 1.0
    adv_clip: Positive = 5.0
    advantage_max: Positive = 1.0
    anchor_weight: NotNegative = 0.0
    anchor_decay: Share = 0.3


class DpoConfig(_Part):
    """Online Diffusion-DPO on the best and the worst picture of each group; see `nbench.normguard.losses.dpo`.

    Attributes:
        beta: inverse temperature, for errors that are means over the latent.
        min_gap: pairs whose rewards are no further apart than this are left out.
    """

    name: Literal["dpo"] = "dpo"
    beta: Positive = 100.0
    min_gap: NotNegative = 0.0


class GrpoConfig(_Part):
    """Flow-GRPO on stochastic trajectories; see `nbench.normguard.losses.grpo`.

    Attributes:
        sampler: "sde" or "cps" (Flow-GRPO-Fast).
        eta: noise level; of "cps" at most 1.
        clip: of the ratio.
        skip_last: steps at the end of a trajectory that are not trained; SD3's last has almost no noise.
        same_noise: start all pictures of a group from one noise, so that rewards differ by the steps' noise alone,
            which is all that the log-probabilities know of (DanceGRPO's default, `same_latent` in flow_grpo).
    """

    name: Literal["grpo"] = "grpo"
    sampler: Literal["sde", "cps"] = "sde"
    eta: Positive = 0.7
    clip: NotNegative = 1e-4
    skip_last: Annotated[int, Field(ge=0)] = 1
    same_noise: bool = False

    @model_validator(mode="after")
    def _eta_of_cps(self) -> GrpoConfig:
        if self.sampler == "cps" and self.eta > 1:
            raise ValueError(f"eta is {self.eta}: sampler cps takes a noise level of at most 1")
        return self


MethodConfig = Annotated[NftConfig | AwmConfig | DpoConfig | GrpoConfig, Field(discriminator="name")]


class Calibration(_Part):
    """How a hinge's weight is found, once, at the first optimiser step where the hinge is active.

    Attributes:
        gradient_ratio: the weighted guard's gradient norm over the base loss's.
        inflation: only for power 2, whose gradient vanishes with the inflation: the share of the reference norm at
            which the ratio shall hold.
    """

    gradient_ratio: Positive
    inflation: Positive = 0.05


class NormGuardConfig(_Part):
    """A penalty on the velocity norm; see `nbench.normguard.guards.norm_hinge`.

    Attributes:
        name: "norm_hinge" (NormGuard), or a control: "symmetric_norm", "old_policy_hinge".
        weight: lambda, or None when it is calibrated.
        calibrate: see `Calibration`.
        mode, power, margin: of the hinge.
    """

    name: Literal["norm_hinge", "symmetric_norm", "old_policy_hinge"]
    weight: NotNegative | None = None
    calibrate: Calibration | None = None
    mode: Literal["rms", "l2", "ratio"] = "rms"
    power: Literal[1, 2] = 1
    margin: NotNegative = 0.0

    @model_validator(mode="after")
    def _one_weight(self) -> NormGuardConfig:
        if (self.weight is None) == (self.calibrate is None):
            raise ValueError(f"guard {self.name!r} needs either a weight or calibrate, and not both")
        return self


class ReferenceKlConfig(_Part):
    """A penalty on the velocity's distance to the base's; see `nbench.normguard.guards.reference_kl`."""

    name: Literal["reference_kl"]
    weight: NotNegative
    weighting: Literal["uniform", "elbo"] = "uniform"


class StateKlConfig(_Part):
    """Flow-GRPO's KL to the base (its form without dt); see `nbench.normguard.guards.state_kl`."""

    name: Literal["state_kl"]
    weight: NotNegative


class RatioNormConfig(_Part):
    """GRPO-Guard: ratio normalisation and gradient re-weighting; see `nbench.normguard.guards.ratio_norm`.

    Attributes:
        reweight: multiply each step's loss by 1 / |dt|.
    """

    name: Literal["ratio_norm"]
    reweight: bool = True


GuardConfig = Annotated[
    NormGuardConfig | ReferenceKlConfig | StateKlConfig | RatioNormConfig, Field(discriminator="name")
]

#: settings of each method and guard, by name
METHODS: dict[str, type[_Part]] = {"nft": NftConfig, "awm": AwmConfig, "dpo": DpoConfig, "grpo": GrpoConfig}
NORM_GUARDS = ("norm_hinge", "symmetric_norm", "old_policy_hinge")
GUARDS: dict[str, type[_Part]] = {
    **dict.fromkeys(NORM_GUARDS, NormGuardConfig),
    "reference_kl": ReferenceKlConfig,
    "state_kl": StateKlConfig,
    "ratio_norm": RatioNormConfig,
}


class RewardConfig(_Part):
    """One term of the reward.

    Attributes:
        scorer: by name.
        metric: of the scorer; "" is its only one.
        weight: factor; negative for a metric that should fall.
    """

    scorer: str
    metric: str = ""
    weight: float = 1.0


class PromptConfig(_Part):
    """Prompts of the training.

    Attributes:
        set: name or file.
        holdout: so many prompts of the set, spread over its tags, are never trained on, and are evaluated.
        limit: train on at most so many of the others.
    """

    set: str
    holdout: Annotated[int, Field(ge=0)] = 0
    limit: Count | None = None


class RolloutConfig(_Part):
    """Pictures of an epoch.

    Attributes:
        prompts: per epoch.
        group_size: pictures per prompt, at least 2.
        steps: of the sampler.
        grid: of sigmas.
        batch_size: pictures per forward.
    """

    prompts: Count
    group_size: int
    steps: Count
    grid: Literal["diffusers", "linspace"] = "diffusers"
    batch_size: Count = 16

    @field_validator("group_size")
    @classmethod
    def _a_group(cls, value: int) -> int:
        if value < 2:
            raise ValueError(
                f"group_size is {value}: an advantage compares pictures of one prompt, so use at least 2 of them"
            )
        return value


class AdvantageConfig(_Part):
    """Group advantages; see `nbench.normguard.advantage.group_advantages`."""

    std: Literal["global", "group"] = "global"
    delta: Positive = 1e-4
    clip: Positive | None = 5.0


class TimesConfig(_Part):
    """At which times (t, eps) a picture is trained, per epoch; GRPO takes so many of its trajectory's steps.

    Attributes:
        law: "rollout": times of the rollout's grid, without repetition; "logit_normal"; "uniform" on [low, high].
        count: times per picture (and, for GRPO, steps).
        low, high: of "uniform", and bounds for the other two; GRPO, which has `skip_last`, takes no notice.
    """

    law: Literal["rollout", "logit_normal", "uniform"] = "rollout"
    count: Count
    low: Annotated[float, Field(gt=0, lt=1)] = 0.005
    high: Annotated[float, Field(gt=0, le=1)] = 1.0

    @model_validator(mode="after")
    def _ordered(self) -> TimesConfig:
        if not self.low < self.high:
            raise ValueError(f"low is {self.low} and high is {self.high}: low must be the smaller")
        return self


class EmaConfig(_Part):
    """The averaged copy that is saved beside the policy, and evaluated with `evaluate.ema`.

    Attributes:
        decay: its decay is min(decay, (1 + s) / (10 + s)) at optimiser step s, from 0.
        every: optimiser steps between updates.
    """

    decay: Share = 0.9
    every: Count = 1


def _no(value: object) -> object:
    return "no" if value is False else value  # YAML reads a bare no as False


class OptimConfig(_Part):
    """Optimisation.

    Attributes:
        epochs: rollouts; a finished training goes on when this is raised.
        updates_per_epoch: optimiser steps on one rollout.
        batch_size: pictures per forward and backward; gradients of a whole update are accumulated.
        learning_rate, betas, eps, weight_decay: of AdamW.
        warmup: optimiser steps over which the rate rises from 0.
        grad_clip: bound of the gradient's norm.
        mixed_precision: autocast of the trained forwards.
        ema: see `EmaConfig`.
    """

    epochs: Count
    updates_per_epoch: Count = 1
    batch_size: Count
    learning_rate: Positive
    betas: tuple[Share, Share] = (0.9, 0.999)
    eps: Positive = 1e-8
    weight_decay: NotNegative = 1e-4
    warmup: Annotated[int, Field(ge=0)] = 0
    grad_clip: Positive = 1.0
    mixed_precision: Annotated[Literal["no", "bf16"], BeforeValidator(_no)] = "no"
    ema: EmaConfig = EmaConfig()


def _tuple_of_steps(value: object) -> object:
    return [value] if isinstance(value, int) else value


class EvaluateConfig(_Part):
    """The evaluation on held-out prompts, before, during and after the training.

    Attributes:
        every: epochs between evaluations; 0 for only the last.
        prompts: a set; None is the training set's held-out prompts.
        limit: at most so many.
        steps: step counts.
        seeds: pictures per prompt.
        scorers: by name; the rewards' scorers are always there.
        batch_size: pictures per forward.
        ema: also evaluate the averaged copy.
    """

    every: Annotated[int, Field(ge=0)] = 0
    prompts: str | None = None
    limit: Count | None = None
    steps: Annotated[tuple[Count, ...], BeforeValidator(_tuple_of_steps)] = (10,)
    seeds: Count = 2
    scorers: tuple[str, ...] = ()
    batch_size: Count = 16
    ema: bool = False


class TrainConfig(_Part):
    """A whole training.

    Attributes:
        name: of the training and, unless `--out` says otherwise, of its folder.
        model, method, guards, rewards, prompts, rollout, advantage, times, optim, evaluate: see their classes.
        checkpoint_every: epochs between checkpoints.
        tensorboard: also write TensorBoard events.
        seed: of everything that is drawn.
    """

    name: str
    model: ModelConfig
    method: MethodConfig
    guards: tuple[GuardConfig, ...] = ()
    rewards: tuple[RewardConfig, ...]
    prompts: PromptConfig
    rollout: RolloutConfig
    advantage: AdvantageConfig = AdvantageConfig()
    times: TimesConfig
    optim: OptimConfig
    evaluate: EvaluateConfig = EvaluateConfig()
    checkpoint_every: Count = 10
    tensorboard: bool = False
    seed: Annotated[int, Field(ge=0)] = 0

    @model_validator(mode="after")
    def _consistent(self) -> TrainConfig:
        if not _NAME.fullmatch(self.name):
            raise ValueError("a name holds letters, digits, '.', '_' and '-', and starts with a letter or digit")
        if not self.rewards:
            raise ValueError("there is no reward: add at least one scorer to rewards")
        if self.evaluate.prompts is None and not self.prompts.holdout:
            raise ValueError("there is nothing to evaluate on: set prompts.holdout, or name a set in evaluate.prompts")
        self._check_guards()
        self._check_times()
        return self

    def _check_guards(self) -> None:
        method = self.method.name
        names = [guard.name for guard in self.guards]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"guard {twice[0]!r} is there twice: give each once")
        for guard in self.guards:
            if guard.name in ("ratio_norm", "state_kl") and method != "grpo":
                raise ValueError(
                    f"guard {guard.name!r} works on the steps of stochastic trajectories, which method {method!r} does "
                    "not have: use it with grpo, or another guard"
                )
            if guard.name == "old_policy_hinge" and method != "nft":
                raise ValueError(
                    f"guard 'old_policy_hinge' needs the velocity of a rollout policy of its own, which method "
                    f"{method!r} does not keep: use it with nft, or take norm_hinge"
                )
        if isinstance(self.method, GrpoConfig) and self.method.sampler == "cps":
            wrong = [name for name in names if name in ("ratio_norm", "state_kl")]
            if wrong:
                raise ValueError(f"guard {wrong[0]!r} is defined for sampler sde, not cps: change one of them")

    def _check_times(self) -> None:
        if isinstance(self.method, GrpoConfig):
            trained = self.rollout.steps - self.method.skip_last
            if self.times.law != "rollout" or self.times.count > trained:
                raise ValueError(
                    f"grpo trains steps of its own trajectories: use times.law rollout and times.count of at most "
                    f"{max(trained, 0)}, which is rollout.steps - method.skip_last"
                )
        elif self.times.law == "rollout" and self.times.count > self.rollout.steps:
            raise ValueError(
                f"times.count is {self.times.count}, but the rollout has only {self.rollout.steps} times: use fewer, "
                "or another law"
            )

    def to_yaml(self) -> str:
        """The config as YAML that `read_config` reads back equal."""
        text: str = yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
        return text
