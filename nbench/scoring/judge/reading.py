"""From a judge's answer to a number, or to the reason why there is none; and what a judge is shown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nbench.scoring.judge.question import Answer, Picture, Question, Unanswered
from nbench.scoring.judge.spec import JudgeSpec, Resize

if TYPE_CHECKING:
    from PIL import Image

#: a label whose probability a server did not give may have so much of the mass that is known
UNSEEN = 0.01


@dataclass(frozen=True)
class Reading:
    """What an answer says.

    Attributes:
        value: expectation over the scale; None where there is a reason.
        mass: probability of all labels together.
        reason: why there is no value.
    """

    value: float | None
    mass: float = 0.0
    reason: str = ""


def read(answer: Answer | Unanswered, spec: JudgeSpec) -> Reading:
    """The value of an answer: sum P(l) v_l / sum P(l), or why it has none.

    A label that the server did not name (it gives its likeliest tokens only) counts as half of its bound, where all
    such bounds together are below 1 % of the mass; else there is no value.
    """
    if isinstance(answer, Unanswered):
        return Reading(None, reason=answer.reason)
    known = {label: answer.probabilities[label] for label in spec.labels if label in answer.probabilities}
    mass = min(1.0, sum(known.values()))
    if mass < spec.label_mass or mass == 0:
        return Reading(
            None,
            mass,
            # without the mass itself, so that reasons of many pictures can be counted together
            f"less than {spec.label_mass:g} of the probability is on the rating words: the judge began with "
            f"{answer.text[:40]!r}",
        )
    unseen = [label for label in spec.labels if label not in known]
    if len(unseen) * answer.missing > UNSEEN * mass:
        return Reading(
            None, mass, f"the server did not give the probability of {unseen[0]!r} (up to {answer.missing:.3g})"
        )
    shares = known | {label: answer.missing / 2 for label in unseen}
    total = sum(shares.values())
    return Reading(sum(shares[label] * spec.scale[label] for label in shares) / total, mass)


def questions_about(spec: JudgeSpec, pictures: Sequence[Picture], prompt: str = "") -> list[Question]:
    """The questions of a spec about one picture, or two, ready to be asked one after the other."""
    return [
        Question(
            tuple(pictures),
            text,
            fixed=spec.rubric,
            system=spec.system,
            stem=spec.stem,
            tokens=spec.labels,
            template=spec.chat_template_kwargs,
        )
        for text in spec.asked(prompt)
    ]


def shown(image: Image.Image, how: Resize) -> Picture:
    """A picture as the judge sees it, whatever serves the judge."""
    from PIL import Image

    plain = image.convert("RGB")
    if how.side is not None and plain.size != (how.side, how.side):
        plain = plain.resize((how.side, how.side), Image.Resampling.LANCZOS)
    if how.max_pixels is not None and plain.width * plain.height > how.max_pixels:
        factor = (how.max_pixels / (plain.width * plain.height)) ** 0.5
        size = max(1, int(plain.width * factor)), max(1, int(plain.height * factor))
        plain = plain.resize(size, Image.Resampling.LANCZOS)
    return Picture(plain)
