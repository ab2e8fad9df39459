"""A judge as a scorer: `judge@SPEC` wherever scorers are named, with a bundled spec's name or a YAML file.

Judges of mode pairwise compare pictures, and are no scorers of single ones: see `nbench.scoring.judge.pairs`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from nbench.errors import ScorerError
from nbench.resources import cache_folder
from nbench.scoring.judge.answers import AnswerJournal
from nbench.scoring.judge.backend import JudgeBackend, open_judge
from nbench.scoring.judge.reading import Reading, questions_about, read, shown
from nbench.scoring.judge.spec import READING, JudgeSpec, judge_paths, load_judge
from nbench.scoring.scorer import Metric, Score, ScorerCard

if TYPE_CHECKING:
    from PIL import Image

#: "judge@SPEC" names a judge wherever a scorer's name is asked for
PREFIX = "judge@"

Opener = Callable[[JudgeSpec, AnswerJournal | None], JudgeBackend]


class JudgeScorer:
    """Scores pictures by what a judge answers.

    Args:
        spec: of a judge of single pictures.
        device: torch device string, for a model in this process.
        opener: makes the backend; `open_judge` by default.
        keep_answers: whether answers of a server are kept over crashes.

    Raises:
        ScorerError: the spec is of mode pairwise.
    """

    def __init__(
        self, spec: JudgeSpec, device: str = "cpu", *, opener: Opener | None = None, keep_answers: bool = True
    ) -> None:
        if spec.mode == "pairwise":
            raise ScorerError(
                f"judge {spec.name!r} compares two pictures, and a scorer sees one: take a judge of mode pointwise, "
                "items or alignment."
            )
        self.spec = spec
        self._keep = keep_answers
        self._open: Opener = opener or (lambda spec, journal: open_judge(spec, device, journal=journal, tell=_say))

    @property
    def about(self) -> ScorerCard:
        """The card without the model's identity; readable where the model is not."""
        return _about(self.spec)

    @cached_property
    def card(self) -> ScorerCard:
        """What the numbers are; starts and loads nothing.

        Raises:
            ScorerError: the model cannot be had here.
        """
        backend = self._open(self.spec, None)
        try:
            return replace(self.about, weights={"spec": self.spec.identity, **backend.identity})
        finally:
            backend.close()

    @cached_property
    def _backend(self) -> JudgeBackend:
        from nbench.scoring.registry import card_identity

        path = cache_folder("judge-answers") / f"{card_identity(self.card)[:32]}.jsonl"
        return self._open(self.spec, AnswerJournal(path) if self._keep else None)

    def score(self, images: Sequence[Image.Image], prompts: Sequence[str]) -> list[Score]:
        """One Score per picture; the questions about one picture are asked one after the other.

        Raises:
            ScorerError: the judge cannot work at all: another model is served, or a label is not one token.
            InfrastructureError: its server does not start, or is gone.
        """
        scores = [Score.failed("the prompt is empty")] * len(images)
        asked = [i for i, prompt in enumerate(prompts) if prompt.strip() or not self.spec.uses_prompt]
        if not asked:
            return scores
        questions = [
            question
            for i in asked
            for question in questions_about(self.spec, [shown(images[i], self.spec.image)], prompts[i])
        ]
        self._backend.prepare()
        readings = [read(answer, self.spec) for answer in self._backend.ask(questions)]
        each = len(self.spec.texts)
        for place, i in enumerate(asked):
            scores[i] = self._scored(readings[place * each : (place + 1) * each])
        return scores

    def _scored(self, readings: Sequence[Reading]) -> Score:
        for place, reading in enumerate(readings):
            if reading.value is None:
                item = f", item {self.spec.items[place].name}" if self.spec.items else ""
                return Score.failed(f"{PREFIX}{self.spec.name}{item}: {reading.reason}")
        values = [reading.value for reading in readings if reading.value is not None]
        mass = min(reading.mass for reading in readings)
        if not self.spec.items:
            return Score(values={_main(self.spec): values[0], "label_mass": mass})
        sound = [value if item.good else 1 - value for item, value in zip(self.spec.items, values, strict=True)]
        named = {item.name: value for item, value in zip(self.spec.items, values, strict=True)}
        return Score(values={"sound": sum(sound) / len(sound), **named, "label_mass": mass})

    def close(self) -> None:
        """Let go of the model and the connections."""
        backend = self.__dict__.pop("_backend", None)
        if backend is not None:
            backend.close()


def _main(spec: JudgeSpec) -> str:
    return {"pointwise": "rating", "alignment": "p_yes", "items": "sound"}[spec.mode]


def _about(spec: JudgeSpec) -> ScorerCard:
    if spec.mode == "pointwise":
        found = [
            Metric("rating", "higher", f"expectation over {len(spec.scale)} labels, {spec.least:g} to {spec.most:g}")
        ]
    elif spec.mode == "alignment":
        found = [Metric("p_yes", "higher", "P(yes) / (P(yes) + P(no)), 0 to 1")]
    else:
        unit = "P(yes) / (P(yes) + P(no)), 0 to 1"
        found = [Metric("sound", "higher", "mean probability of the better answer over all items, 0 to 1")]
        found += [Metric(item.name, "higher" if item.good else "lower", unit) for item in spec.items]
    how = "at its own size"
    if spec.image.side is not None:
        how = f"as a square of {spec.image.side} pixels"
    elif spec.image.max_pixels is not None:
        how = f"at its own size, reduced to {spec.image.max_pixels} pixels where larger"
    return ScorerCard(
        name=f"{PREFIX}{spec.name}",
        kind="judge",
        version=READING,
        metrics=(*found, Metric("label_mass", "none", "probability of the labels, least over the questions, 0 to 1")),
        summary=spec.summary or f"{spec.model} asked by the spec {spec.name}.",
        uses_prompt=spec.uses_prompt,
        preprocessing=f"PNG {how}; the model's own image processor; next token over the labels "
        f"{', '.join(map(repr, spec.labels))}; no score below a label mass of {spec.label_mass:g}",
        licence=spec.licence,
        source=spec.model if spec.revision is None else f"{spec.model}@{spec.revision}",
        heavy=True,
        fooled_by=spec.fooled_by,
    )


def bundled_judges() -> list[str]:
    """Names of the bundled specs that score single pictures."""
    return [name for name in judge_paths() if load_judge(name).mode != "pairwise"]


def judge_by_name(name: str, device: str = "cpu") -> JudgeScorer:
    """The judge that "judge@SPEC" names, whose model is known to be here; its scorer is called "judge@" and its spec.

    Raises:
        UsageError: there is no such spec, it is wrong, or of mode pairwise, or its model cannot be had.
    """
    scorer = create(name.removeprefix(PREFIX), device)
    _ = scorer.card  # reading it asks for the model
    return scorer


def create(name_or_path: str | Path, device: str = "cpu") -> JudgeScorer:
    """The scorer of a bundled spec or a YAML file; a package with a spec of its own calls this with its path.

    Raises:
        UsageError: there is no such spec, or it is wrong.
        ScorerError: it is of mode pairwise.
    """
    return JudgeScorer(load_judge(name_or_path), device)


def _say(text: str) -> None:
    """Progress of a server's start, on stderr."""
    import sys

    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()
