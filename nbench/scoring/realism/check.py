"""Is a realism detector fit for a claim? Does it know real from generated here, and what else makes it say "real"?

Two questions, after the design's checks: the AUC of real pictures against the base's, in this encoding and at this
size, and the change of the log-odds of the *same* base pictures under each control. A detector whose log-odds rise by x
when a picture is blurred cannot support "the checkpoint is more realistic by x".
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import numpy as np

from nbench.errors import ScorerError
from nbench.scoring.realism.controls import CONTROLS
from nbench.scoring.realism.roc import Auc, auc
from nbench.scoring.scorer import Scorer
from nbench.stats.bootstrap import Interval, cluster_mean

if TYPE_CHECKING:
    from PIL import Image

    from nbench.scoring.realism.controls import Control

INFORMATIVE = 0.8  # least AUC of a detector that has anything to say
_CHUNK = 64

Fitness = Literal["fit", "unfit", "undecided"]


@dataclass(frozen=True)
class ControlEffect:
    """What a control does to the log-odds of generated pictures.

    Attributes:
        name: of the control.
        rise: mean of (log-odds after - before), with its interval over groups; above 0 is more "real".
        share: of pictures that rise.
    """

    name: str
    rise: Interval
    share: float


@dataclass(frozen=True)
class DetectorCheck:
    """The outcome of `check_detector`.

    Attributes:
        scorer: its name.
        auc: real against generated; None without real pictures.
        controls: effects on the generated pictures, in the order of application.
        failures: why pictures have no score, with counts.
        biases: what tells the sides apart without looking; each makes the AUC worthless.
        real_mean: mean log-odds of the real pictures; None without.
        fake_mean: of the generated ones.
    """

    scorer: str
    auc: Auc | None
    controls: tuple[ControlEffect, ...]
    failures: Mapping[str, int] = field(default_factory=dict)
    biases: tuple[str, ...] = ()
    real_mean: float | None = None
    fake_mean: float = float("nan")

    @property
    def informative(self) -> bool | None:
        """Whether the AUC is at least 0.8; None where it was not measured."""
        return None if self.auc is None else self.auc.value >= INFORMATIVE

    @property
    def greatest(self) -> ControlEffect:
        """The control that raises the log-odds most."""
        return max(self.controls, key=lambda one: one.rise.mean)

    def verdict(self, claim: float | None, effect: Interval | None = None) -> tuple[Fitness, list[str]]:
        """Whether the detector supports a claimed rise of the log-odds, and why not.

        Unfit: it is uninformative, or a control raises the log-odds by more than `claim`. Undecided: nothing forbids
        it, but the AUC was not measured or cannot be trusted, its interval reaches below 0.8, or a control's interval
        reaches above `claim`.

        Args:
            claim: mean rise of the log-odds that is claimed for a checkpoint; None judges the detector alone.
            effect: the rise with its interval, where the claim was measured here; one that may be 0 decides nothing.
        """
        against: list[str] = []
        open_: list[str] = []
        if effect is not None and not effect.low > 0:
            open_.append(f"the rise itself is not shown: its interval is {effect.low:+.3f} to {effect.high:+.3f}")
        if self.auc is None:
            open_.append("no real pictures were given, so nothing shows that it knows real from generated here")
        elif self.auc.value < INFORMATIVE:
            against.append(f"it is uninformative here: AUC {self.auc.value:.3f}, below {INFORMATIVE}")
        elif not self.auc.low >= INFORMATIVE:
            open_.append(f"the AUC's interval ({self.auc.low:.3f} to {self.auc.high:.3f}) reaches below {INFORMATIVE}")
        open_ += [f"the AUC cannot be trusted: {bias}" for bias in self.biases]
        for control in self.controls:
            if claim is None:
                break
            if control.rise.mean > claim:
                against.append(f"{control.name} alone raises it by {control.rise.mean:.3f}, more than {claim:g}")
            elif not control.rise.high <= claim:
                open_.append(f"{control.name} may raise it by more than {claim:g} (up to {control.rise.high:.3f})")
        if against:
            return "unfit", against + open_
        return ("undecided", open_) if open_ else ("fit", [])


def check_detector(
    scorer: Scorer,
    fake: Sequence[Image.Image],
    fake_groups: Sequence[str],
    *,
    real: Sequence[Image.Image] = (),
    real_groups: Sequence[str] = (),
    biases: Sequence[str] = (),
    controls: Mapping[str, Control] = CONTROLS,
    seed: int = 0,
    tell: Callable[[str], None] = lambda text: None,
) -> DetectorCheck:
    """Measure a detector on one's own pictures.

    Args:
        scorer: of kind "realism"; its first metric is log-odds of real.
        fake: pictures of the base, all made at one step count.
        fake_groups: what each belongs to, e.g. its prompt.
        real: real pictures of the same encoding and size; none leaves the AUC out.
        real_groups: what each belongs to.
        biases: of `pictures.differences`.
        controls: by name.
        seed: of the controls that draw.
        tell: called with what is being done.

    Raises:
        ScorerError: the scorer is no realism detector, or gives too few pictures a score.
    """
    if scorer.card.kind != "realism":
        raise ScorerError(
            f"scorer {scorer.card.name!r} is of kind {scorer.card.kind}: check a detector, whose kind is realism."
        )
    failures: dict[str, int] = {}
    tell(f"{len(fake)} generated pictures")
    before = log_odds(scorer, fake, failures)
    seen = np.isfinite(before)
    if seen.sum() < 2:
        reason = next(iter(failures), "no picture was given")
        raise ScorerError(f"{scorer.card.name} gave {int(seen.sum())} of {len(fake)} pictures a score: {reason}.")
    labels = np.asarray(fake_groups)
    measured, mean = None, None
    if real:
        tell(f"{len(real)} real pictures")
        odds = log_odds(scorer, real, failures)
        known = np.isfinite(odds)
        if not known.any():
            raise ScorerError(f"{scorer.card.name} gave no real picture a score: {next(iter(failures))}.")
        measured = auc(
            odds[known], before[seen], real_groups=np.asarray(real_groups)[known], fake_groups=labels[seen], seed=seed
        )
        mean = float(odds[known].mean())
    effects = []
    for name, control in controls.items():
        tell(f"control: {name}")
        rng = random.Random(f"{seed}/{name}")
        after = log_odds(scorer, [control(image, rng) for image in fake], failures)
        both = seen & np.isfinite(after)
        if not both.any():
            continue
        rise = after[both] - before[both]
        effects.append(ControlEffect(name, cluster_mean(rise, labels[both]), float((rise > 0).mean())))
    return DetectorCheck(
        scorer=scorer.card.name,
        auc=measured,
        controls=tuple(effects),
        failures=failures,
        biases=tuple(biases),
        real_mean=mean,
        fake_mean=float(before[seen].mean()),
    )


def log_odds(scorer: Scorer, images: Sequence[Image.Image], failures: dict[str, int]) -> np.ndarray:
    """The scorer's first metric, float64 [n]; NaN where it gives a reason, which is counted in `failures`."""
    name = scorer.card.metrics[0].name
    found = []
    for start in range(0, len(images), _CHUNK):
        chunk = list(images[start : start + _CHUNK])
        for score in scorer.score(chunk, [""] * len(chunk)):
            if score.values is None:
                reason = score.reason or "no reason given"
                failures[reason] = failures.get(reason, 0) + 1
            found.append(float("nan") if score.values is None else score.values[name])
    return np.array(found, np.float64)
