"""How far to trust a judge: does it follow known degradations, repeat itself, and answer at all?

A judge of single pictures is shown bundled or the user's own pictures as they are and degraded at five severities. Per
picture, Spearman's rank correlation of severity and badness says whether it follows; the paired AUC, the share of
degraded copies that it puts below their own original, whether it notices. Intervals resample whole pictures.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
from PIL import Image

from nbench.errors import ScorerError
from nbench.scoring.judge.answered import Answered
from nbench.scoring.judge.degradations import DEGRADATIONS, SEVERITIES, degrade, wrong_prompt
from nbench.scoring.judge.scorer import JudgeScorer
from nbench.scoring.scorer import Score
from nbench.stats.bootstrap import Interval, cluster_mean

WRONG_PROMPT = "wrong prompt"
LEAST_SPEARMAN = 0.8
LEAST_AUC = 0.9
#: repeats of one question may differ by so much of the scale's range before a judge is not trusted
MOST_NOISE = 0.05
_REPEATS = 3
_REPEATED = 8  # pictures that are asked again and again

Floats = npt.NDArray[np.float64]
Picture = tuple[Image.Image, str]
Tell = Callable[[str], None]


@dataclass(frozen=True)
class Following:
    """How a judge follows one kind of degradation.

    Attributes:
        kind: of degradation.
        metric: of the scorer that is looked at.
        means: of the metric at severity 0 to 5; NaN where there is no answer.
        lows: bounds of their 95 % intervals.
        highs: likewise.
        spearman: mean over pictures of the rank correlation of severity and badness; 1 follows exactly.
        pooled: the same correlation over all pictures and severities at once.
        auc: share of degraded copies put below their original, ties half.
        auc_at: the same at each severity.
        is_item: whether the metric is the answer to a yes/no question about this kind.
    """

    kind: str
    metric: str
    means: tuple[float, ...]
    lows: tuple[float, ...]
    highs: tuple[float, ...]
    spearman: Interval
    pooled: float
    auc: Interval
    auc_at: tuple[float, ...]
    is_item: bool = False

    @property
    def fault(self) -> str | None:
        """Why the judge does not follow; None when it does.

        A rating must fall with severity. Whether there is a fault at all is not a matter of degree: an item must tell
        degraded copies from their originals.
        """
        if self.is_item:
            weak = not self.auc.mean >= LEAST_AUC
            return f"{self.kind}: AUC {self.auc.mean:.2f}, below {LEAST_AUC}" if weak else None
        weak = not self.spearman.mean >= LEAST_SPEARMAN
        return f"{self.kind}: Spearman {self.spearman.mean:.2f}, below {LEAST_SPEARMAN}" if weak else None


@dataclass(frozen=True)
class Repeatability:
    """How far equal questions get equal answers.

    Attributes:
        metric: that is looked at.
        alone: largest difference between repeats asked one at a time.
        loaded: largest difference between an answer under full load and the same one alone.
        deviation: standard deviation of one answer over all repeats, alone and loaded.
        range: of the metric.
    """

    metric: str
    alone: float
    loaded: float
    deviation: float
    range: float


@dataclass(frozen=True)
class JudgeCheck(Answered):
    """The outcome of `check_judge`.

    Attributes:
        judge: its scorer's name.
        identity: of model and means.
        pictures: how many originals.
        following: by kind of degradation.
        repeatability: of equal questions.
        mass: label mass over all answers: mean and least; None where nothing was answered.
        asked: pictures that were scored, degraded ones included.
        failures: why pictures have no score, with counts.
        seconds: per picture at full load.
        agreement: with the user's pairs; None without.
    """

    judge: str
    identity: Mapping[str, str]
    pictures: int
    following: tuple[Following, ...]
    repeatability: Repeatability | None
    mass: tuple[float, float] | None
    asked: int
    failures: Mapping[str, int] = field(default_factory=dict)
    seconds: float = float("nan")
    agreement: Interval | None = None

    @property
    def faults(self) -> list[str]:
        """Why the judge is not to be trusted; empty when it is."""
        found = self.silences("questions")
        found += [one.fault for one in self.following if one.fault is not None]
        noise = self.repeatability
        if noise is not None and noise.deviation > MOST_NOISE * noise.range:
            found.append(f"equal questions get answers that differ (deviation {noise.deviation:.3g})")
        return found


def check_judge(
    scorer: JudgeScorer,
    pictures: Sequence[Picture],
    *,
    human: Sequence[HumanPair] = (),
    seed: int = 0,
    tell: Tell = lambda text: None,
) -> JudgeCheck:
    """Measure a judge of single pictures.

    Args:
        scorer: the judge; one that keeps no answers, or repeats would not be asked.
        pictures: originals with their prompts, at least two.
        human: pairs that people judged.
        seed: of the degradations that draw.
        tell: hears what is being done.

    Raises:
        ScorerError: there are too few pictures, or the judge cannot work at all.
    """
    if len(pictures) < 2:
        raise ScorerError(f"a judge is checked on at least two pictures, and there are {len(pictures)}.")
    kinds = [WRONG_PROMPT] if scorer.spec.mode == "alignment" else list(DEGRADATIONS)
    tell(f"{min(len(pictures), _REPEATED)} pictures alone, {_REPEATS} times")
    alone = [[scorer.score([i], [p])[0] for i, p in pictures[:_REPEATED]] for _ in range(_REPEATS)]
    images, prompts = [image for image, _ in pictures], [prompt for _, prompt in pictures]
    for kind in kinds:
        for severity in SEVERITIES:
            for number, (image, prompt) in enumerate(pictures):
                rng = random.Random(f"{seed}/{kind}/{number}")  # one draw for all severities of a picture
                if kind == WRONG_PROMPT:
                    other = pictures[(number + 1) % len(pictures)][1]
                    images.append(image)
                    prompts.append(wrong_prompt(prompt, other, severity, rng))
                else:
                    images.append(degrade(image, kind, severity, rng))
                    prompts.append(prompt)
    tell(f"{len(images)} pictures at full load")
    began = time.perf_counter()
    scores = scorer.score(images, prompts)
    seconds = (time.perf_counter() - began) / len(images)
    count, levels = len(pictures), len(SEVERITIES)
    following = []
    for place, kind in enumerate(kinds):
        first = count * (1 + place * levels)
        rows = [scores[:count], *(scores[first + level * count :][:count] for level in range(levels))]
        following.append(_following(scorer, kind, rows))
    masses = [score.values["label_mass"] for score in scores if score.values is not None]
    return JudgeCheck(
        judge=scorer.card.name,
        identity=dict(scorer.card.weights),
        pictures=count,
        following=tuple(following),
        repeatability=_repeatability(scorer, alone, scores[: min(count, _REPEATED)]),
        mass=(float(np.mean(masses)), min(masses)) if masses else None,
        asked=len(scores),
        failures=Counter(score.reason or "" for score in scores if not score.ok),
        seconds=seconds,
        agreement=_agreement(scorer, human),
    )


def _following(scorer: JudgeScorer, kind: str, rows: Sequence[Sequence[Score]]) -> Following:
    """Of one kind; `rows` are the scores at severity 0, 1, ... of all pictures."""
    metrics = {metric.name: metric for metric in scorer.card.metrics}
    name = kind if kind in metrics else scorer.card.metrics[0].name
    sign = -1.0 if metrics[name].orientation == "lower" else 1.0
    values = _values(rows, name)
    means, lows, highs = [], [], []
    for row in values:
        seen = row[np.isfinite(row)]
        mean = cluster_mean(seen, np.arange(len(seen))) if len(seen) else None
        means.append(mean.mean if mean else float("nan"))
        lows.append(mean.low if mean else float("nan"))
        highs.append(mean.high if mean else float("nan"))
    good = sign * values
    whole = np.isfinite(good).all(axis=0)
    nothing = Interval(float("nan"), float("nan"), float("nan"), 0, 0)
    if not whole.any():
        nan = float("nan")
        return Following(
            kind, name, tuple(means), tuple(lows), tuple(highs), nothing, nan, nothing, (), kind in metrics
        )
    good = good[:, whole]
    severity = np.arange(len(good), dtype=np.float64)
    each = np.array([correlation(severity, -column) for column in good.T])
    wins = (good[0] > good[1:]) + 0.5 * (good[0] == good[1:])  # [severities, pictures]
    labels = np.arange(good.shape[1])
    return Following(
        kind=kind,
        metric=name,
        means=tuple(means),
        lows=tuple(lows),
        highs=tuple(highs),
        spearman=bounded(cluster_mean(each, labels), -1.0),
        pooled=correlation(np.repeat(severity, good.shape[1]), -good.ravel()),
        auc=bounded(cluster_mean(wins.ravel(), np.tile(labels, len(wins))), 0.0),
        auc_at=tuple(float(row.mean()) for row in wins),
        is_item=kind in metrics,
    )


def _values(rows: Sequence[Sequence[Score]], name: str) -> Floats:
    """A metric of all scores, [rows, pictures]; NaN where there is none."""
    return np.array([[float("nan") if s.values is None else s.values[name] for s in row] for row in rows], np.float64)


def bounded(found: Interval, least: float, most: float = 1.0) -> Interval:
    """An interval without what its quantity cannot be."""
    return replace(found, low=float(np.clip(found.low, least, most)), high=float(np.clip(found.high, least, most)))


def correlation(one: Floats, other: Floats) -> float:
    """Spearman's rank correlation, ties at their mean rank; 0 where one of the two is constant."""
    from scipy.stats import rankdata

    a, b = rankdata(one) - (len(one) + 1) / 2, rankdata(other) - (len(other) + 1) / 2
    size = float(np.sqrt((a * a).sum() * (b * b).sum()))
    return float((a * b).sum() / size) if size > 0 else 0.0


def _repeatability(
    scorer: JudgeScorer, alone: Sequence[Sequence[Score]], loaded: Sequence[Score]
) -> Repeatability | None:
    metric = scorer.card.metrics[0].name
    values = _values([*alone, loaded], metric)
    values = values[:, np.isfinite(values).all(axis=0)]
    if not values.size:
        return None
    single, full = values[:-1], values[-1]
    span = scorer.spec.most - scorer.spec.least
    return Repeatability(
        metric=metric,
        alone=float(np.ptp(single, axis=0).max()),
        loaded=float(np.abs(full - single).max()),
        deviation=float(np.sqrt(values.var(axis=0, ddof=1).mean())),
        range=span,
    )


@dataclass(frozen=True)
class HumanPair:
    """Two pictures of which people preferred one.

    Attributes:
        a: a picture.
        b: another of the same prompt.
        prompt: of both.
        a_won: whether `a` was preferred.
    """

    a: Image.Image
    b: Image.Image
    prompt: str
    a_won: bool


def _agreement(scorer: JudgeScorer, human: Sequence[HumanPair]) -> Interval | None:
    """Share of pairs in which the judge prefers what people did, ties half; pairs without a score are left out."""
    if not human:
        return None
    prompts = [pair.prompt for pair in human]
    sides = [scorer.score([getattr(pair, side) for pair in human], prompts) for side in ("a", "b")]
    a, b = _values(sides, scorer.card.metrics[0].name)
    won = np.array([pair.a_won for pair in human])
    seen = np.isfinite(a) & np.isfinite(b)
    if not seen.any():
        return None
    right = np.where(a == b, 0.5, (a > b) == won).astype(np.float64)[seen]
    return bounded(cluster_mean(right, np.arange(len(right))), 0.0)
