"""Claim 2: pulling the norm back while sampling improves neither reward nor quality."""

from __future__ import annotations

from nbench.study.claims.claim import Claim, Part, Verdict
from nbench.study.claims.pooling import Contrast, averaged, contrast, one_effect, pooled_effect, pooling_caveats
from nbench.study.claims.reader import NORM_METHODS, Reader, named
from nbench.study.claims.rules import no_gain
from nbench.study.claims.scores import at_steps
from nbench.study.claims.wording import ALL, NORMGUARD, counted, part, shown, untold
from nbench.study.plan import Group, RunKind, Training

_STATEMENT = (
    "Rescaling an unguarded checkpoint's velocities to the base's norm while sampling improves neither reward nor "
    "judged quality."
)
_RULE = (
    "It holds where the pooled 95 % interval of rescaled minus plain, averaged over step counts, lies below "
    "{smallest:g} sd of the base for reward and for quality, in each mode of rescale; it does not hold where any of "
    "them lies above 0; it cannot be told otherwise."
)
_MODES: tuple[RunKind, ...] = ("rescale-full", "rescale-one-sided")
_MEASURES = ("reward", "quality")


def claim_rescale(reader: Reader) -> Claim:
    """Rescaled minus plain, of the trained reward and of quality."""
    smallest = reader.settings.smallest
    rule = _RULE.format(smallest=smallest)
    modes = [kind for kind in _MODES if kind.removeprefix("rescale-") in reader.evidence.plan.study.evaluation.rescale]
    if not modes:
        reader.lacks("runs with rescale: name modes in the study's evaluation.rescale")
    found: dict[tuple[RunKind, str], list[Contrast]] = {(kind, measure): [] for kind in modes for measure in _MEASURES}
    parts: list[Part] = []
    for group in reader.groups(NORM_METHODS) if modes else ():
        for training in group.of(reader.settings.unguarded):
            for (kind, measure), into in found.items():
                one = _rescaled(reader, group, training, kind, measure)
                if one is not None:
                    into.append(one)
                    effect = one_effect(one)
                    name = f"{one.name} {measure} {kind.removeprefix('rescale-')}"
                    facts: dict[str, float | str | None] = {"measure": measure, "mode": kind, "difference": one.raw}
                    parts.append(part(name, effect, no_gain(effect, smallest), facts))
    pooled = []
    for (kind, measure), contrasts in found.items():
        effect = pooled_effect(contrasts)
        facts = {"measure": measure, "mode": kind}
        name = f"all: {measure} {kind.removeprefix('rescale-')}"
        pooled.append(part(name, effect, no_gain(effect, smallest), facts, scope=ALL))
    headline = pooled_effect(averaged([found[modes[0], measure] for measure in _MEASURES])) if modes else None
    if not any(one.effect for one in pooled):
        return untold(2, "rescale", NORMGUARD, _STATEMENT, rule, reader.missing)
    verdicts = [one.verdict for one in pooled]
    verdict: Verdict = "cannot tell"
    if set(verdicts) == {"holds"}:
        verdict = "holds"
    elif "does not hold" in verdicts or any(_shown_gain(one) for one in pooled):
        verdict = "does not hold"
    return Claim(
        number=2,
        key="rescale",
        source=NORMGUARD,
        statement=_STATEMENT,
        rule=rule,
        verdict=verdict,
        effect=headline,
        parts=(*pooled, *parts),
        summary=(
            f"Rescaled minus plain, over {counted(headline, 'training')}: "
            f"{'; '.join(f'{one.name[5:]} {shown(one.effect)}' for one in pooled)}. Reward and quality averaged, "
            f"in mode {modes[0].removeprefix('rescale-')}: {shown(headline)}."
        ),
        caveats=(
            *pooling_caveats(headline),
            *dict.fromkeys(one.doubt for contrasts in found.values() for one in contrasts if one.doubt),
        ),
        missing=reader.missing,
    )


def _shown_gain(one: Part) -> bool:
    return one.effect is not None and one.effect.low is not None and one.effect.low > 0


def _rescaled(reader: Reader, group: Group, training: Training, kind: RunKind, measure: str) -> Contrast | None:
    if measure == "reward":
        plain = reader.reward(group, "final", training.checkpoint)
        pulled = reader.reward(group, kind, training.checkpoint)
    else:
        plain = reader.unseen(group, "final", training.checkpoint, reader.settings.quality)
        pulled = reader.unseen(group, kind, training.checkpoint, reader.settings.quality)
    if plain is None or pulled is None:
        return None
    shared = [count for count in plain.steps if count in pulled.steps]
    return contrast(named(group, training), at_steps(plain, shared), at_steps(pulled, shared))
