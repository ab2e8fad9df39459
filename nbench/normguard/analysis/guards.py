"""What a guard costs and what it buys: trainings that differ in the guard alone, measured on the same states.

Each variant is a whole training from the same config and seed, in a folder of its own, so a stopped study goes on where
it was. The norm ratio q is taken on states of the base's own trajectories, which all variants share.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nbench.errors import UsageError
from nbench.flow.load import SwapsLora, load_model, pick_device
from nbench.normguard.analysis.inflation import inflation, summarise_inflation
from nbench.normguard.config import NORM_GUARDS, TrainConfig
from nbench.normguard.config_file import make_config
from nbench.normguard.evaluation import Evaluation
from nbench.normguard.observer import TrainObserver
from nbench.normguard.prompting import training_prompts
from nbench.normguard.trainer import TrainResult, train
from nbench.stats.bootstrap import Interval

#: makes the observer of one training
MakeObserver = Callable[[str], TrainObserver | None]


@dataclass(frozen=True)
class Variant:
    """One setting of the guard.

    Attributes:
        name: of its folder and its row.
        guard: as in a config, or None for the base method alone.
    """

    name: str
    guard: Mapping[str, Any] | None

    @property
    def family(self) -> str:
        """Power and margin: variants of one family differ in weight alone."""
        if self.guard is None:
            return "no guard"
        margin = self.guard.get("margin", 0.0)
        return f"p = {self.guard.get('power', 1)}" + (f", margin {margin:g}" if margin else "")


@dataclass(frozen=True)
class GuardRow:
    """What one training came to.

    Attributes:
        config: name of the base config.
        method: its method.
        variant: name.
        family: see `Variant.family`.
        weight: lambda as it was used; None without a guard, or for a hinge that was never active.
        gain: the trained reward on held-out prompts against the base, summed as in training, first step count.
        others: other metrics against the base, "metric @ steps" -> difference.
        base_states: q on the base's trajectories, mean over t.
        own_states: q on the checkpoint's own.
        active: share of training rows with an active hinge, last epoch; None without one.
        seconds: of training.
        folder: of the training.
    """

    config: str
    method: str
    variant: str
    family: str
    weight: float | None
    gain: Interval
    others: dict[str, Interval]
    base_states: Interval
    own_states: Interval
    active: float | None
    seconds: float
    folder: str

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def make_variants(
    *,
    weights: Sequence[float] = (),
    ratios: Sequence[float] = (),
    powers: Sequence[int] = (1,),
    margins: Sequence[float] = (0.0,),
    name: str = "norm_hinge",
) -> list[Variant]:
    """No guard, and the guard with every weight, and every calibration ratio, at every power and margin.

    Raises:
        UsageError: neither weights nor ratios are given.
    """
    if not weights and not ratios:
        raise UsageError("there is no guard to try: give weights, calibration ratios, or both.")
    found = [Variant("no-guard", None)]
    for power in powers:
        for margin in margins:
            shape = {"name": name, "power": power, "margin": margin}
            suffix = f"p{power}" + (f"-m{margin:g}" if margin else "")
            found += [Variant(f"{suffix}-w{weight:g}", {**shape, "weight": weight}) for weight in weights]
            found += [
                Variant(f"{suffix}-r{ratio:g}", {**shape, "calibrate": {"gradient_ratio": ratio}}) for ratio in ratios
            ]
    return found


def guarded(config: TrainConfig, variant: Variant) -> TrainConfig:
    """`config` with the variant's guard in place of any norm guard that it has.

    Raises:
        UsageError: the method cannot use the guard.
    """
    content = config.model_dump(mode="json")
    kept = [guard for guard in content["guards"] if guard["name"] not in NORM_GUARDS]
    content["guards"] = kept if variant.guard is None else [*kept, dict(variant.guard)]
    return make_config(content, where=f"{config.name} with {variant.name}")


def study_guards(
    configs: Sequence[TrainConfig],
    variants: Sequence[Variant],
    out: Path,
    *,
    steps: int | None = None,
    observer: MakeObserver | None = None,
) -> list[GuardRow]:
    """Train every config with every variant, and measure each.

    Args:
        configs: with LoRA tuning.
        variants: of the guard.
        out: a folder; each training goes to OUT/CONFIG/VARIANT, and one that is finished is not trained again.
        steps: of the trajectories that q is measured on; None is the rollout's.
        observer: gives each training's observer, by "config/variant".

    Raises:
        UsageError: a config is wrong, or tunes the whole transformer.
    """
    plan = [(config, variant, guarded(config, variant)) for config in configs for variant in variants]
    for config in configs:
        if config.model.tuning != "lora":
            raise UsageError(f"{config.name} tunes the whole transformer: a study of guards needs model.tuning lora.")
    rows = []
    for config, variant, chosen in plan:
        folder = out / config.name / variant.name
        result = train(chosen, folder, observer=observer(f"{config.name}/{variant.name}") if observer else None)
        rows.append(_row(config, variant, chosen, result, steps or config.rollout.steps))
        _free_memory()
    return rows


def _free_memory() -> None:
    """Let go of the last training's model, which holds itself by a cycle."""
    import gc

    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _row(config: TrainConfig, variant: Variant, chosen: TrainConfig, result: TrainResult, steps: int) -> GuardRow:
    records = result.folder.records()
    last = records[-1]
    hinge = None if variant.guard is None else str(variant.guard["name"])
    norms = measured_norms(chosen, result.policy, steps)
    gain, others = _differences(chosen, result.evaluation)
    return GuardRow(
        config=config.name,
        method=config.method.name,
        variant=variant.name,
        family=variant.family,
        weight=last["guards"].get(hinge) if hinge else None,
        gain=gain,
        others=others,
        base_states=norms["base"],
        own_states=norms["own"],
        active=last["stats"].get(f"{hinge}/active", {}).get("mean") if hinge else None,
        seconds=sum(record["seconds"]["epoch"] for record in records),
        folder=f"{config.name}/{variant.name}",
    )


def measured_norms(config: TrainConfig, lora: Path, steps: int) -> dict[str, Interval]:
    """Norm ratios on the base's and on the LoRA's own trajectories over the held-out prompts, by kind of states."""
    device = str(pick_device(config.model.device))
    model = load_model(config.model.spec(device, name="trained", lora=str(lora)))
    assert isinstance(model, SwapsLora)
    guidance = model.default_guidance if config.model.guidance is None else config.model.guidance
    height, width = config.model.height, config.model.width
    found = inflation(
        model,
        model.reference_view(),
        training_prompts(config).held_out.prompts,
        steps=steps,
        seeds=1,
        guidance=guidance,
        states=("base", "own"),
        run_seed=config.seed,
        grid=config.rollout.grid,
        size=(height, width) if height is not None and width is not None else None,
        batch_size=config.evaluate.batch_size,
    )
    return {line.state: line.ratio for line in summarise_inflation(found) if line.step is None}


def _differences(config: TrainConfig, evaluation: Evaluation) -> tuple[Interval, dict[str, Interval]]:
    """The trained reward's paired gain, and every metric's, of the policy.

    The gain of a sum of terms is the weighted sum of their gains; its interval is exact for one term, and for more it
    is the terms' intervals added, which is wider than the sum's.
    """
    mine = [one for one in evaluation.comparisons if one.checkpoint == "policy" and one.difference is not None]
    everything = {f"{one.metric} @ {one.steps}": one.difference for one in mine if one.difference is not None}
    first = min(one.steps for one in mine)
    mean = low = high = 0.0
    clusters = values = 0
    for term in config.rewards:
        wanted = term.metric or term.scorer
        found = next(
            (o.difference for o in mine if o.scorer == term.scorer and o.steps == first and o.metric == wanted), None
        )
        if found is None:
            raise UsageError(f"the evaluation of {config.name} has no values of {term.scorer}.")
        ends = sorted((term.weight * found.low, term.weight * found.high))
        mean, low, high = mean + term.weight * found.mean, low + ends[0], high + ends[1]
        clusters, values = found.clusters, found.values
    return Interval(mean, low, high, clusters, values), everything
