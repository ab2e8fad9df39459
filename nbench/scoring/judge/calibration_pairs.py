"""How far to trust a judge of pairs: does it prefer the less degraded copy, in either order?

Pairs are copies of one picture at severities s and s + 2. Order bias is the mean probability of whatever stands first,
less 0.5; swap consistency the share of pairs in which the same copy wins in both orders.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from nbench.errors import ScorerError
from nbench.scoring.judge.answered import Answered
from nbench.scoring.judge.backend import JudgeBackend
from nbench.scoring.judge.calibration import MOST_NOISE, HumanPair, Picture, Tell, bounded
from nbench.scoring.judge.degradations import DEGRADATIONS, SEVERITIES, degrade
from nbench.scoring.judge.pairs import PairJudgement, judge_pairs
from nbench.scoring.judge.reading import shown
from nbench.scoring.judge.spec import JudgeSpec
from nbench.stats.bootstrap import Interval, cluster_mean

LEAST_ACCURACY = 0.9
LEAST_CONSISTENCY = 0.9
MOST_ORDER_BIAS = 0.1
_APART = 2  # severities of a pair
_REPEATS = 3
_REPEATED = 8


@dataclass(frozen=True)
class PairFollowing:
    """How a judge tells copies apart that differ by two severities of one kind.

    Attributes:
        kind: of degradation.
        accuracy: share of pairs in which the less degraded copy is preferred, ties half.
        accuracy_from: the same for pairs whose better copy has severity 0, 1, 2, 3.
    """

    kind: str
    accuracy: Interval
    accuracy_from: tuple[float, ...]

    @property
    def fault(self) -> str | None:
        """Why the judge does not follow; None when it does. The verdict is over all kinds together."""
        weak = not self.accuracy.mean >= LEAST_ACCURACY
        return f"{self.kind}: right {self.accuracy.mean:.1%}, below {LEAST_ACCURACY:.0%}" if weak else None


@dataclass(frozen=True)
class PairCheck(Answered):
    """The outcome of `check_pair_judge`.

    Attributes:
        judge: name of its spec.
        identity: of model and means.
        pictures: how many originals.
        following: by kind of degradation.
        accuracy: over all kinds.
        consistency: share of pairs with the same winner in both orders.
        order_bias: mean probability of what stands first, less 0.5.
        deviation: of one preference, over repeats alone and at full load.
        mass: label mass: mean and least; None where nothing was answered.
        asked: pairs.
        failures: why pairs have no judgement, with counts.
        seconds: per pair, both orders, at full load.
        agreement: with the user's pairs; None without.
    """

    judge: str
    identity: Mapping[str, str]
    pictures: int
    following: tuple[PairFollowing, ...]
    accuracy: Interval
    consistency: Interval
    order_bias: Interval
    deviation: float
    mass: tuple[float, float] | None
    asked: int
    failures: Mapping[str, int] = field(default_factory=dict)
    seconds: float = float("nan")
    agreement: Interval | None = None

    @property
    def faults(self) -> list[str]:
        """Why the judge is not to be trusted; empty when it is."""
        found = self.silences("pairs")
        if not self.accuracy.mean >= LEAST_ACCURACY:
            found.append(f"it is right about {self.accuracy.mean:.1%} of the pairs, below {LEAST_ACCURACY:.0%}")
        if not self.consistency.mean >= LEAST_CONSISTENCY:
            found.append(
                f"{self.consistency.mean:.1%} of the pairs keep their winner when swapped, below "
                f"{LEAST_CONSISTENCY:.0%}"
            )
        if not abs(self.order_bias.mean) <= MOST_ORDER_BIAS:
            found.append(
                f"it leans to the {'first' if self.order_bias.mean > 0 else 'second'} picture by "
                f"{abs(self.order_bias.mean):.2f}"
            )
        if self.deviation > MOST_NOISE:
            found.append(f"equal questions get answers that differ (deviation {self.deviation:.3g})")
        return found


def check_pair_judge(
    backend: JudgeBackend,
    spec: JudgeSpec,
    pictures: Sequence[Picture],
    *,
    human: Sequence[HumanPair] = (),
    seed: int = 0,
    tell: Tell = lambda text: None,
) -> PairCheck:
    """Measure a judge of mode pairwise.

    Args:
        backend: of the judge, without a journal, or repeats would not be asked.
        spec: of the judge.
        pictures: originals with their prompts, at least two.
        human: pairs that people judged.
        seed: of the degradations that draw.
        tell: hears what is being done.

    Raises:
        ScorerError: there are too few pictures, no pair gets a judgement, or the judge cannot work at all.
    """
    if len(pictures) < 2:
        raise ScorerError(f"a judge is checked on at least two pictures, and there are {len(pictures)}.")
    backend.prepare()
    starts = range(len(SEVERITIES) + 1 - _APART)
    asked = [(kind, start, number) for kind in DEGRADATIONS for start in starts for number in range(len(pictures))]
    pairs, prompts = [], []
    for kind, start, number in asked:
        image, prompt = pictures[number]
        # each copy draws anew from the same seed: a pair differs in severity alone
        both = [degrade(image, kind, level, random.Random(f"{seed}/{kind}/{number}")) for level in (start, start + 2)]
        pairs.append((shown(both[0], spec.image), shown(both[1], spec.image)))
        prompts.append(prompt)
    tell(f"{min(_REPEATED, len(pairs))} pairs alone, {_REPEATS} times")
    alone = [
        [judge_pairs(backend, spec, [pairs[i]], [prompts[i]])[0] for i in range(min(_REPEATED, len(pairs)))]
        for _ in range(_REPEATS)
    ]
    tell(f"{len(pairs)} pairs at full load, both orders")
    began = time.perf_counter()
    found = judge_pairs(backend, spec, pairs, prompts)
    seconds = (time.perf_counter() - began) / len(pairs)
    seen = [place for place, one in enumerate(found) if one.preference is not None]
    if not seen:
        raise ScorerError(f"judge {spec.name!r} judged no pair: {found[0].reason}.")
    numbers = np.array([asked[place][2] for place in seen])
    right = np.array([_won(found[place]) for place in seen])
    same = np.array([float(bool(found[place].consistent)) for place in seen])
    first = np.array([found[place].first_place or 0.0 for place in seen])
    kinds, begun = (np.array([asked[place][column] for place in seen]) for column in (0, 1))
    following = []
    for kind in DEGRADATIONS:
        mine = kinds == kind
        if mine.any():
            at = [right[mine & (begun == start)] for start in starts]
            each = tuple(float(part.mean()) if part.size else float("nan") for part in at)
            following.append(PairFollowing(kind, bounded(cluster_mean(right[mine], numbers[mine]), 0.0), each))
    masses = [found[place].mass for place in seen]
    return PairCheck(
        judge=spec.name,
        identity=dict(backend.identity),
        pictures=len(pictures),
        following=tuple(following),
        accuracy=bounded(cluster_mean(right, numbers), 0.0),
        consistency=bounded(cluster_mean(same, numbers), 0.0),
        order_bias=cluster_mean(first - 0.5, numbers),
        deviation=_deviation([*alone, found[: len(alone[0])]]),
        mass=(float(np.mean(masses)), min(masses)),
        asked=len(found),
        failures=Counter(one.reason for one in found if one.preference is None),
        seconds=seconds,
        agreement=_agreement(backend, spec, human),
    )


def _won(one: PairJudgement) -> float:
    """1 where the first of the pair is preferred, 0.5 for a tie."""
    preference = one.preference or 0.0
    return 0.5 if preference == 0.5 else float(preference > 0.5)


def _deviation(repeats: Sequence[Sequence[PairJudgement]]) -> float:
    values = np.array([[np.nan if one.preference is None else one.preference for one in row] for row in repeats])
    values = values[:, np.isfinite(values).all(axis=0)]
    return float(np.sqrt(values.var(axis=0, ddof=1).mean())) if values.size else float("nan")


def _agreement(backend: JudgeBackend, spec: JudgeSpec, human: Sequence[HumanPair]) -> Interval | None:
    if not human:
        return None
    pairs = [(shown(pair.a, spec.image), shown(pair.b, spec.image)) for pair in human]
    found = judge_pairs(backend, spec, pairs, [pair.prompt for pair in human])
    right = [
        _won(one) if pair.a_won else 1 - _won(one)
        for one, pair in zip(found, human, strict=True)
        if one.preference is not None
    ]
    return bounded(cluster_mean(right, np.arange(len(right))), 0.0) if right else None
