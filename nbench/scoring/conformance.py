"""What every scorer must pass, built in or plugged in: repeatable, blind to company, not fooled by the simplest fakes.

`nbench scorers check NAME` runs this on the bundled pocket scenes. Whether a scorer is *right* is for its golden values
and the figures of its model card; this module says whether it can be trusted as an instrument.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter

from nbench.pocket.scenes import Picture, sample_scenes
from nbench.scoring.registry import AnyScorer
from nbench.scoring.scorer import Score, Scorer
from nbench.scoring.sets import SetScorer

TOLERANCE = 1e-5  # of a value's size, or absolute below 1: what another batch may change through rounding


@dataclass(frozen=True)
class Check:
    """One property of a scorer.

    Attributes:
        name: the property.
        passed: whether it holds; None where it does not apply.
        detail: figures in words.
    """

    name: str
    passed: bool | None
    detail: str


@dataclass(frozen=True)
class ConformanceReport:
    """The outcome of `check_scorer`.

    Attributes:
        scorer: its name.
        checks: what was checked, in order.
        canaries: mean value by canary and metric; None where the scorer gave reasons instead.
    """

    scorer: str
    checks: tuple[Check, ...]
    canaries: Mapping[str, Mapping[str, float] | None] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        """Whether nothing failed."""
        return all(check.passed is not False for check in self.checks)


def canaries(pictures: Sequence[Picture]) -> dict[str, list[Picture]]:
    """Pictures that no sound scorer prefers to `pictures`: black, white, noise, wrong prompt, blurred, saturated."""
    draw = np.random.default_rng(0)
    prompts = [prompt for _, prompt in pictures]

    def same(make: Callable[[Image.Image], Image.Image]) -> list[Picture]:
        return [(make(image), prompt) for image, prompt in pictures]

    def noise(image: Image.Image) -> Image.Image:
        return Image.fromarray(draw.integers(0, 256, (image.height, image.width, 3), np.uint8))

    return {
        "black": same(lambda image: Image.new("RGB", image.size)),
        "white": same(lambda image: Image.new("RGB", image.size, (255, 255, 255))),
        "noise": same(noise),
        "wrong prompt": [(image, other) for (image, _), other in zip(pictures, prompts[1:] + prompts[:1], strict=True)],
        "blurred": same(lambda image: image.filter(ImageFilter.GaussianBlur(image.width / 16))),
        "saturated": same(lambda image: ImageEnhance.Color(image.convert("RGB")).enhance(4.0)),
    }


def odd_inputs() -> dict[str, Picture]:
    """Pictures and prompts that a run may come across; each must give a value or a reason, not an exception."""
    image, prompt = sample_scenes()[0]
    return {
        "grey picture": (image.convert("L"), prompt),
        "picture with alpha": (image.convert("RGBA"), prompt),
        "palette picture": (image.convert("P"), prompt),
        "picture of one pixel": (image.resize((1, 1)), prompt),
        "picture of 301x47": (image.resize((301, 47)), prompt),
        "empty prompt": (image, ""),
        "prompt of 500 words": (image, " ".join([prompt] * 500)[:4000]),
        "prompt in Chinese": (image, "一只在草地上的红色狐狸"),
    }


def check_scorer(scorer: AnyScorer, pictures: Sequence[Picture] | None = None) -> ConformanceReport:
    """Check that a scorer answers every picture, repeats itself, ignores batch and order, and sees through canaries.

    Args:
        scorer: of pictures, or of sets.
        pictures: at least two RGB pictures with fitting prompts; by default what the scorer's own `samples()` gives,
            and the bundled pocket scenes where it has none.

    Returns:
        A report. The canary checks apply to metrics with an orientation, and are None for the others. A canary that the
        card's `fooled_by` names does not fail a scorer; one that it names without need does.
    """
    own = getattr(scorer, "samples", sample_scenes)
    pictures = list(pictures or own())
    if isinstance(scorer, SetScorer):
        return _check_set_scorer(scorer, [image for image, _ in pictures])
    card = scorer.card
    first = _score(scorer, pictures)
    checks = [_shape(scorer, first, len(pictures))]
    if not checks[0].passed:
        return ConformanceReport(card.name, tuple(checks))
    checks.append(_difference("determinism", first, _score(scorer, pictures), tolerance=0.0))
    alone = [score for picture in pictures for score in _score(scorer, [picture])]
    checks.append(_difference("batch independence", first, alone, tolerance=TOLERANCE))
    backwards = _score(scorer, pictures[::-1])[::-1]
    checks.append(_difference("order independence", first, backwards, tolerance=TOLERANCE))
    empty = list(scorer.score([], []))
    checks.append(Check("empty batch", not empty, f"{len(empty)} scores for no picture"))

    sets = canaries(pictures)
    scored = {name: _score(scorer, spoiled) for name, spoiled in sets.items()}
    swapped = scored["wrong prompt"]
    if card.uses_prompt:
        moved = _spread(first, swapped)
        checks.append(Check("reads the prompt", moved > 0, f"another prompt moves values by up to {moved:.3g}"))
    else:
        checks.append(_difference("ignores the prompt", first, swapped, tolerance=0.0))
    checks += [_precision(first), _odd_inputs(scorer)]
    checks += _orientation(scorer, first, scored)
    means = {"as drawn": _mean(first)} | {name: _mean(scores) for name, scores in scored.items()}
    return ConformanceReport(card.name, tuple(checks), means)


def _score(scorer: Scorer, pictures: Sequence[Picture]) -> list[Score]:
    forget = getattr(scorer, "forget", None)
    if forget is not None:
        forget()  # features that are recalled would agree with themselves
    return list(scorer.score([image for image, _ in pictures], [prompt for _, prompt in pictures]))


def _shape(scorer: AnyScorer, scores: Sequence[Score], count: int) -> Check:
    name = "one score per picture"
    if len(scores) != count:
        return Check(name, False, f"{len(scores)} scores for {count} pictures")
    wanted = {metric.name for metric in scorer.card.metrics}
    for score in scores:
        if score.values is not None and set(score.values) != wanted:
            return Check(name, False, f"metrics {sorted(score.values)}, but the card names {sorted(wanted)}")
    reasons = [score.reason for score in scores if not score.ok]
    if len(reasons) == count:
        return Check(name, False, f"no value for any picture: {reasons[0]}")
    return Check(name, True, f"{count - len(reasons)} values, {len(reasons)} reasons")


def _spread(one: Sequence[Score], other: Sequence[Score]) -> float:
    """Largest difference relative to max(1, size); infinite where one has a value and the other a reason."""
    worst = 0.0
    for a, b in zip(one, other, strict=True):
        if a.values is None or b.values is None:
            worst = worst if a.ok == b.ok else float("inf")
            continue
        for name, value in a.values.items():
            worst = max(worst, abs(value - b.values[name]) / max(1.0, abs(value)))
    return worst


def _difference(name: str, one: Sequence[Score], other: Sequence[Score], *, tolerance: float) -> Check:
    spread = _spread(one, other)
    return Check(name, spread <= tolerance, f"largest difference {spread:.3g}, allowed {tolerance:.3g}")


def _mean(scores: Sequence[Score]) -> dict[str, float] | None:
    rows = [score.values for score in scores if score.values is not None]
    return {name: float(np.mean([row[name] for row in rows])) for name in rows[0]} if rows else None


def _orientation(scorer: Scorer, first: Sequence[Score], scored: Mapping[str, Sequence[Score]]) -> list[Check]:
    """No canary may be better, in the mean, than the pictures as drawn. A scorer that refuses a canary passes it."""
    oriented = [metric for metric in scorer.card.metrics if metric.orientation != "none"]
    if not oriented:
        return [Check("canaries", None, "no metric has an orientation")]
    checks: list[Check] = []
    fooled: dict[str, bool] = {}  # declared canary -> whether it is one
    drawn = _mean(first) or {}
    for canary, scores in scored.items():
        if canary == "wrong prompt" and not scorer.card.uses_prompt:
            continue
        found = _mean(scores)
        for metric in oriented:
            name = f"canary: {canary}" + (f" ({metric.name})" if metric.name else "")
            if found is None:
                checks.append(Check(name, None, "refused, with a reason"))
                continue
            sign = 1 if metric.orientation == "higher" else -1
            lower = sign * (drawn[metric.name] - found[metric.name]) > 0
            detail = f"{found[metric.name]:.4g}, as drawn {drawn[metric.name]:.4g}"
            if canary in scorer.card.fooled_by:
                fooled.setdefault(canary, False)
                fooled[canary] |= not lower
                checks.append(Check(name, None, f"{detail}; declared: unfit for absolute floors"))
            else:
                checks.append(Check(name, lower, detail))
    idle = [canary for canary, true in fooled.items() if not true]
    if idle:
        checks.append(Check("declared canaries", False, f"not fooled by {', '.join(idle)}: take it off the card"))
    return checks


def _precision(scores: Sequence[Score]) -> Check:
    """Whether values carry more than 16 bits; None where they are few, as counts and shares of letters are."""
    name = "more than half precision"
    metrics = {metric for score in scores for metric in score.values or {}}
    judged, half = 0, []
    for metric in sorted(metrics):
        values = np.array([score.values[metric] for score in scores if score.values is not None], np.float32)
        if len(values) < 4 or len(set(values.tolist())) < len(values):
            continue
        judged += 1
        rounded = (values.view(np.uint32) & 0xFFFF) == 0  # bfloat16 is the upper half of float32
        if bool(rounded.all()) or np.array_equal(values.astype(np.float16).astype(np.float32), values):
            half.append(metric or "its metric")
    if not judged:
        return Check(name, None, "too few different values to tell")
    return Check(name, not half, f"16-bit values: {', '.join(half)}" if half else "scored in float32 or better")


def _odd_inputs(scorer: Scorer) -> Check:
    name, outcomes = "odd input gives a value or a reason", []
    for what, (image, prompt) in odd_inputs().items():
        try:
            (score,) = scorer.score([image], [prompt])
        except Exception as error:
            return Check(name, False, f"{what}: raised {type(error).__name__}: {error}")
        if not score.ok:
            outcomes.append(what)
    return Check(name, True, f"a reason for: {', '.join(outcomes)}" if outcomes else "a value for each")


def _check_set_scorer(scorer: SetScorer, images: Sequence[Image.Image]) -> ConformanceReport:
    """Repeatable, blind to order, lowest on copies of one picture, and a reason for a single one."""
    first = scorer.score_set(images)
    checks = [_shape(scorer, [first], 1)]
    if not checks[0].passed:
        return ConformanceReport(scorer.card.name, tuple(checks))
    checks.append(_difference("determinism", [first], [scorer.score_set(images)], tolerance=0.0))
    backwards = scorer.score_set(images[::-1])
    checks.append(_difference("order independence", [first], [backwards], tolerance=TOLERANCE))
    alone = scorer.score_set(images[:1])
    checks.append(Check("a single picture", not alone.ok, alone.reason or "a value, where there is no set"))
    copies = scorer.score_set([images[0]] * len(images))
    found, drawn = _mean([copies]), _mean([first]) or {}
    for metric in scorer.card.metrics:
        if metric.orientation == "none":
            continue
        name = "copies of one picture" + (f" ({metric.name})" if metric.name else "")
        if found is None:
            checks.append(Check(name, None, "refused, with a reason"))
            continue
        sign = 1 if metric.orientation == "higher" else -1
        lower = sign * (drawn[metric.name] - found[metric.name]) > 0
        checks.append(Check(name, lower, f"{found[metric.name]:.4g}, different pictures {drawn[metric.name]:.4g}"))
    return ConformanceReport(scorer.card.name, tuple(checks), {"as drawn": drawn, "copies": found})
