"""What a policy holds to its margins: each measure at each step count, under the first rule that names it.

The base's run says what there is to be held. What the candidate's run lacks of it is a row without pairs, so that a
thin run of the candidate can never pass a rule by leaving out what would have failed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nbench.compare import Paired, Pairs, Side
from nbench.errors import UsageError, did_you_mean
from nbench.gates.policy import Policy, Rule
from nbench.runs.cube import Measure


@dataclass(frozen=True)
class Held:
    """A measure at a step count, under its rule.

    Attributes:
        rule: that names it.
        name: of the measure, or what the rule named.
        steps: step count; 0 where there is no measure.
        pairs: None where the two runs have no such measure or step count in common.
        lacking: why there are no pairs; "" where there are.
    """

    rule: Rule
    name: str
    steps: int
    pairs: Pairs | None
    lacking: str = ""


def hold(policy: Policy, paired: Paired, base: Side, candidate: Side) -> list[Held]:
    """Every measure and step count that the policy names, in the order of its rules.

    Raises:
        UsageError: a rule names a measure without a better side.
    """
    known = measures_of(base.run.card)
    steps = [int(count) for count in base.run.card["steps"]]
    place = _Place(paired, candidate.run.folder.name)
    names = {one.name for one in known} | {one.scorer for one in known}
    for rule in policy.rules:
        counts = steps if rule.steps is None else rule.steps
        for kind in rule.kinds:
            of_kind = [one for one in known if one.kind == kind and one.sign]
            if not of_kind:
                place.nothing(rule, f"scorer of kind {kind}")
            place.add(rule, of_kind, counts)
        for name in rule.scorers:
            named = [one for one in known if name in (one.name, one.scorer)]
            if any(not one.sign for one in named):
                raise UsageError(f"{name} has no better side, so it cannot be gated: leave it out of the policy.")
            if not named:
                place.nothing(rule, name, did_you_mean(name, names))
            place.add(rule, named, counts)
    return place.found


def measures_of(card: Mapping[str, Any]) -> list[Measure]:
    """Every measure of a run's card, in its order."""
    return [
        Measure(scorer, metric["name"] or scorer, part["kind"], metric["orientation"], metric["unit"])
        for scorer, part in card.get("scorers", {}).items()
        for metric in part["metrics"]
    ]


class _Place:
    """Collects what is held, each measure at each step count once."""

    def __init__(self, paired: Paired, candidate_run: str) -> None:
        self.found: list[Held] = []
        self._pairs = {one.measure: one for one in paired.pairs}
        self._run = candidate_run
        self._taken: set[tuple[Measure, int]] = set()

    def nothing(self, rule: Rule, what: str, hint: str = "") -> None:
        hint = f" ({hint.strip().rstrip('.')})" if hint else ""
        self.found.append(Held(rule, what, 0, None, f"the base's run has no {what}{hint}"))

    def add(self, rule: Rule, measures: Sequence[Measure], steps: Sequence[int]) -> None:
        for measure in measures:
            pairs = self._pairs.get(measure)
            for count in steps:
                if (measure, count) in self._taken:
                    continue
                self._taken.add((measure, count))
                lacking = ""
                if pairs is None:
                    lacking = f"run {self._run!r} of the candidate has no {measure.name}"
                elif count not in pairs.steps:
                    lacking = f"the runs share no pictures at {count} steps"
                self.found.append(Held(rule, measure.name, count, None if lacking else pairs, lacking))
