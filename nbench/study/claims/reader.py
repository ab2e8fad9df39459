"""Reads a study's runs for the claims: paired scores, trained rewards and norm ratios of one checkpoint at a time."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from nbench.runs.tables import RunTables
from nbench.study.claims.scores import NormRatios, Scores, norm_ratios, paired_scores
from nbench.study.evidence import Evidence
from nbench.study.plan import BASE, Group, RunKind, Training

#: methods that NormGuard's paper trains by
NORM_METHODS = ("nft", "awm", "dpo")
_HELD_OUT_KINDS = ("reward", "judge", "realism")


class Reader:
    """Evidence, read once.

    Attributes:
        evidence: what there is.
        missing: what was asked for and is not there, in words, in order.
    """

    def __init__(self, evidence: Evidence) -> None:
        self.evidence = evidence
        self.settings = evidence.plan.study.claims
        self._missing: dict[str, None] = {}
        self._read: dict[tuple[str, RunKind, str], dict[str, Scores]] = {}

    @property
    def missing(self) -> tuple[str, ...]:
        """What was asked for since `forget` and is not there."""
        return tuple(self._missing)

    def forget(self) -> None:
        """Begin a new list of what is missing."""
        self._missing = {}

    def lacks(self, what: str) -> None:
        """Note that something is missing."""
        self._missing[what] = None

    def groups(self, methods: Sequence[str]) -> tuple[Group, ...]:
        """Groups that train by one of the methods; lacking any is noted."""
        found = tuple(group for group in self.evidence.plan.groups if group.method in methods)
        if not found:
            self.lacks(f"trainings by {' or '.join(methods)}: add them to the study's grid")
        return found

    def twins(self, group: Group, guarded: str) -> tuple[tuple[Training, Training], ...]:
        """(unguarded, guarded) trainings of one seed; a group without any is noted."""
        others = {one.seed: one for one in group.of(guarded)}
        found = tuple((one, others[one.seed]) for one in group.of(self.settings.unguarded) if one.seed in others)
        if not found:
            self.lacks(f"{group.name}: arms {self.settings.unguarded} and {guarded} of one seed in the study's grid")
        return found

    def run(self, group: Group, kind: RunKind) -> RunTables | None:
        """A group's run; one that is not finished is noted."""
        found = self.evidence.run(group, kind)
        if found is None:
            self.lacks(f"the {kind} run of {group.name}: go on with the study")
        return found

    def scores(self, group: Group, kind: RunKind, checkpoint: str, measure: str) -> Scores | None:
        """One measure of a checkpoint; None, and noted, where it was not measured.

        Raises:
            CardMismatchError: the cards of the two runs differ in more than the rescale.
        """
        found = self._all(group, kind, checkpoint)
        if found is None:
            return None
        if measure not in found:
            self.lacks(f"{measure} in the {kind} run of {group.name}: add it to the study's evaluation.scorers")
            return None
        return found[measure]

    def reward(self, group: Group, kind: RunKind, checkpoint: str) -> Scores | None:
        """What the group was trained on: the weighted sum of its terms, so that more is what training wanted."""
        terms = self.evidence.plan.study.rewards[group.reward]
        found = []
        for term in terms:
            name = f"{term.scorer}.{term.metric}" if term.metric and term.metric != term.scorer else term.scorer
            scores = self.scores(group, kind, checkpoint, name)
            if scores is None:
                return None
            # Scores are oriented; the training's weight is on the value as the scorer gives it.
            found.append((term.weight * (scores.sign or 1), scores))
        first = found[0][1]
        return Scores(
            name=" + ".join(scores.name for _, scores in found),
            kind="reward",
            scorers=self.trained_on(group),
            sign=1,
            steps=first.steps,
            prompts=first.prompts,
            base=np.asarray(sum(weight * scores.base for weight, scores in found)),
            own=np.asarray(sum(weight * scores.own for weight, scores in found)),
            noise=math.sqrt(sum((weight * scores.noise) ** 2 for weight, scores in found)),
            doubt="; ".join(dict.fromkeys(scores.doubt for _, scores in found if scores.doubt)),
        )

    def held_out(self, group: Group, kind: RunKind, checkpoint: str) -> tuple[Scores, ...]:
        """Every oriented measure of single pictures whose scorer was not trained on."""
        found = self._all(group, kind, checkpoint) or {}
        trained = self.trained_on(group)
        return tuple(
            one for one in found.values() if one.sign and one.kind in _HELD_OUT_KINDS and not one.scorers & trained
        )

    def trained_on(self, group: Group) -> frozenset[str]:
        """Scorers that the group was trained on."""
        return frozenset(term.scorer for term in self.evidence.plan.study.rewards[group.reward])

    def unseen(self, group: Group, kind: RunKind, checkpoint: str, measure: str) -> Scores | None:
        """As `scores`; None, and noted, also where the group was trained on the measure's scorer."""
        found = self.scores(group, kind, checkpoint, measure)
        if found is not None and found.scorers & self.trained_on(group):
            self.lacks(f"a measure other than {measure} for {group.name}, which was trained on it: it is left out")
            return None
        return found

    def norm_ratio(self, group: Group, kind: RunKind, checkpoint: str) -> NormRatios | None:
        """Norm ratios of a checkpoint's pictures; None, and noted, where they were not measured."""
        run = self.run(group, kind)
        found = None if run is None else norm_ratios(run, checkpoint)
        if run is not None and found is None:
            self.lacks(f"norm ratios of {checkpoint} in the {kind} run of {group.name}: run it with norm_ratio")
        return found

    def _all(self, group: Group, kind: RunKind, checkpoint: str) -> dict[str, Scores] | None:
        run, rescaled = self.run(group, kind), kind.startswith("rescale")
        reference = self.run(group, "final") if rescaled else run
        if run is None or reference is None:
            return None
        for one, name in ((run, checkpoint), (reference, BASE)):
            if name not in one.card["checkpoints"]:
                self.lacks(f"{name} in the {kind} run of {group.name}: go on with the study")
                return None
        place = (group.name, kind, checkpoint)
        if place not in self._read:
            self._read[place] = paired_scores(reference, run, checkpoint, rescaled=rescaled)
        return self._read[place]


def named(group: Group, training: Training) -> str:
    """What parts call a training or a pair of one seed: "pocket-sd3-nft-aesthetic s0"."""
    return f"{group.name} s{training.seed}"
