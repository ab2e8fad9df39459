"""Claims 4 to 7: what the norm hinge does to judged quality, forensic realism and reward, and at few steps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from nbench.study.claims.claim import Claim, Effect, Part, Verdict
from nbench.study.claims.pooling import (
    Contrast,
    averaged,
    contrast,
    one_effect,
    pooled_effect,
    pooling_caveats,
    series,
)
from nbench.study.claims.reader import NORM_METHODS, Reader, named
from nbench.study.claims.rules import NON_INFERIORITY, SUPERIORITY, agreed, non_inferior, superiority
from nbench.study.claims.scores import Scores
from nbench.study.claims.wording import ALL, INFORMATION, NORMGUARD, ONE, counted, part, shown, small, untold
from nbench.study.plan import BASE, Group, Training

_OVER = "Guarded minus unguarded, paired by prompt, seed and steps, averaged over step counts, pooled over pairs: it "


@dataclass(frozen=True)
class _Pair:
    """Scores of two trainings that differ in the guard alone."""

    name: str
    unguarded: Scores
    guarded: Scores

    def contrast(self) -> Contrast | None:
        return contrast(self.name, self.unguarded, self.guarded)


#: reads one measure of a training's finished checkpoint
_Read = Callable[[Group, Training], Scores | None]


def claim_quality(reader: Reader) -> Claim:
    """The hinge improves judged quality."""
    statement = "The norm hinge improves judged quality."
    return _better(reader, 4, "quality", statement, reader.settings.quality)


def claim_realism(reader: Reader) -> Claim:
    """The hinge improves forensic realism."""
    statement = "The norm hinge improves forensic realism."
    return _better(reader, 5, "realism", statement, reader.settings.realism)


def claim_reward(reader: Reader) -> Claim:
    """The hinge costs no reward."""
    margin = reader.settings.margin
    statement = "The norm hinge does so at no loss of the reward that was trained."
    return _pooled_claim(
        reader,
        6,
        "reward",
        statement,
        _OVER + NON_INFERIORITY.format(margin=margin) + ".",
        lambda group, one: reader.reward(group, "final", one.checkpoint),
        lambda effect: non_inferior(effect, margin),
    )


def _better(reader: Reader, number: int, key: str, statement: str, measure: str) -> Claim:
    smallest = reader.settings.smallest
    return _pooled_claim(
        reader,
        number,
        key,
        statement,
        _OVER + SUPERIORITY.format(smallest=smallest) + ".",
        lambda group, one: reader.unseen(group, "final", one.checkpoint, measure),
        lambda effect: superiority(effect, smallest),
    )


def _pooled_claim(
    reader: Reader,
    number: int,
    key: str,
    statement: str,
    rule: str,
    read: _Read,
    judge: Callable[[Effect | None], Verdict],
) -> Claim:
    pairs = _pairs(reader, reader.groups(NORM_METHODS), read)
    others = [group for group in reader.evidence.plan.groups if group.method not in NORM_METHODS]
    missing = reader.missing
    information = _pairs(reader, others, read)
    contrasts = [found for one in pairs if (found := one.contrast()) is not None]
    parts = [_part(one, judge, ONE) for one in pairs]
    parts += [_part(one, judge, INFORMATION) for one in information]
    effect = pooled_effect(contrasts)
    if effect is None:
        return untold(number, key, NORMGUARD, statement, rule, missing, tuple(parts))
    verdict = judge(effect)
    doubts = tuple(dict.fromkeys(one.doubt for one in contrasts if one.doubt))
    by_base = {
        f"{name} - base": [
            found
            for one in pairs
            if (found := contrast(one.name, _base_of(side := getattr(one, name)), side)) is not None
        ]
        for name in ("unguarded", "guarded")
    }
    return Claim(
        number=number,
        key=key,
        source=NORMGUARD,
        statement=statement,
        rule=rule,
        verdict=verdict,
        effect=effect,
        parts=(part("all", effect, verdict, scope=ALL), *parts),
        summary=(
            f"Guarded minus unguarded: {shown(effect)}, over {counted(effect)}."
            + (small(effect, reader.settings.smallest) if key != "reward" else "")
        ),
        caveats=(*pooling_caveats(effect), *doubts),
        missing=missing,
        series={"guarded - unguarded": series(contrasts)} | {name: series(found) for name, found in by_base.items()},
    )


def claim_few_steps(reader: Reader) -> Claim:
    """The gains grow at few steps."""
    settings = reader.settings
    statement = f"The hinge's gains in quality and realism are larger at {settings.few} steps than at {settings.full}."
    rule = (
        f"(guarded - unguarded) at {settings.few} steps minus the same at {settings.full}, both in standard deviations "
        f"of the base at {settings.full} steps: each of quality and realism "
        f"{SUPERIORITY.format(smallest=settings.smallest)}. "
        "The claim holds if both hold, does not hold if neither does, and cannot be told otherwise."
    )
    groups = reader.groups(NORM_METHODS)
    found: dict[str, list[Contrast]] = {}
    parts: list[Part] = []
    for key, measure in (("quality", settings.quality), ("realism", settings.realism)):
        found[key] = []
        for pair in _pairs(reader, groups, _unseen_reader(reader, measure)):
            one = _grown(reader, pair)
            if one is not None:
                found[key].append(one)
                effect = one_effect(one)
                verdict = superiority(effect, settings.smallest)
                parts.append(part(f"{one.name} {key}", effect, verdict, {"measure": key}))
    pooled = []
    for key, contrasts in found.items():
        effect = pooled_effect(contrasts)
        pooled.append(part(f"all: {key}", effect, superiority(effect, settings.smallest), {"measure": key}, scope=ALL))
    if not any(one.effect for one in pooled):
        return untold(7, "few-steps", NORMGUARD, statement, rule, reader.missing)
    headline = pooled_effect(averaged(list(found.values())))
    doubts = (one.doubt for contrasts in found.values() for one in contrasts if one.doubt)
    return Claim(
        number=7,
        key="few-steps",
        source=NORMGUARD,
        statement=statement,
        rule=rule,
        verdict=agreed([one.verdict for one in pooled]),
        effect=headline,
        parts=(*pooled, *parts),
        summary=(
            f"The gain at {settings.few} steps minus that at {settings.full}, over {counted(headline)}: "
            f"{'; '.join(f'{one.name[5:]} {shown(one.effect)}' for one in pooled)}."
            + "".join(dict.fromkeys(small(one.effect, settings.smallest) for one in pooled))
        ),
        caveats=(*pooling_caveats(headline), *dict.fromkeys(doubts)),
        missing=reader.missing,
    )


def _unseen_reader(reader: Reader, measure: str) -> _Read:
    return lambda group, one: reader.unseen(group, "final", one.checkpoint, measure)


def _grown(reader: Reader, pair: _Pair) -> Contrast | None:
    """The gain at few steps minus that at full, as a contrast at one "step count"."""
    few, full = reader.settings.few, reader.settings.full
    plain = pair.contrast()
    if plain is None or few not in plain.steps or full not in plain.steps:
        return None
    i, j = plain.steps.index(few), plain.steps.index(full)
    # Its values are in standard deviations at each step count: one unit for both, or the change of unit would count.
    factor = float(pair.guarded.spread[i] / pair.guarded.spread[j])
    values = plain.values[i] * factor - plain.values[j]
    noise = None
    if plain.noise is not None:
        noise = np.hypot(plain.noise[i : i + 1] * factor, plain.noise[j : j + 1])
    return Contrast(pair.name, (few,), plain.prompts, values[None], noise=noise, doubt=plain.doubt)


def _pairs(reader: Reader, groups: Sequence[Group], read: _Read) -> list[_Pair]:
    found = []
    for group in groups:
        for first, second in reader.twins(group, reader.settings.guarded):
            unguarded, guarded = read(group, first), read(group, second)
            if unguarded is not None and guarded is not None:
                found.append(_Pair(named(group, first), unguarded, guarded))
    return found


def _part(pair: _Pair, judge: Callable[[Effect | None], Verdict], scope: str) -> Part:
    found = pair.contrast()
    effect = None if found is None else one_effect(found)
    raw = None if found is None else found.raw
    steps = {} if found is None else {f"{n} steps": _mean(found.at(n)) for n in found.steps}
    facts = {"measure": pair.guarded.name, "difference": raw, **steps}
    return part(pair.name, effect, judge(effect), facts, scope=scope)


def _mean(found: Contrast) -> float | None:
    values = found.by_prompt[np.isfinite(found.by_prompt)]
    return float(values.mean()) if len(values) else None


def _base_of(scores: Scores) -> Scores:
    return replace(scores, own=scores.base, name=BASE)
