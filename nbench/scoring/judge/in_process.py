"""The same questions without a server: a model in this process, through transformers. Slower, the same numbers.

One question is one forward, so that no picture's score depends on what else is asked. The prompt's text is what the
folder's own chat template gives, as vLLM renders it.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nbench.errors import InfrastructureError, ScorerError, first_line
from nbench.scoring.judge.model_files import find_model, model_digests, weight_bytes
from nbench.scoring.judge.question import Answer, Question, Unanswered
from nbench.scoring.judge.spec import JudgeSpec

if TYPE_CHECKING:
    import torch


class InProcessJudge:
    """A judge's model in this process; loaded at the first question.

    Args:
        spec: of the judge.
        device: torch device string.
    """

    def __init__(self, spec: JudgeSpec, device: str) -> None:
        self.spec = spec
        self.device = device

    @cached_property
    def folder(self) -> Path:
        """Of the model."""
        return find_model(self.spec)

    @cached_property
    def identity(self) -> Mapping[str, str]:
        """What answers: digests of the model's files, and by what means.

        Raises:
            ScorerError: the model cannot be had.
        """
        import transformers

        means = f"transformers {transformers.__version__}, {self._dtype_name} on {self.device.partition(':')[0]}"
        return {**model_digests(self.folder), "backend": means}

    @property
    def _dtype_name(self) -> str:
        if self.spec.dtype != "auto":
            return self.spec.dtype
        return "float32" if self.device.startswith("cpu") else "bfloat16"

    @cached_property
    def _loaded(self) -> tuple[Any, Any]:
        import torch
        from transformers import AutoModelForImageTextToText, AutoProcessor

        dtype = getattr(torch, self._dtype_name)
        self._check_memory(dtype)
        try:
            with _without_bars():
                processor = AutoProcessor.from_pretrained(self.folder, local_files_only=True)
                model, report = AutoModelForImageTextToText.from_pretrained(
                    self.folder, dtype=dtype, local_files_only=True, output_loading_info=True
                )
        except (OSError, ValueError, KeyError, ImportError) as error:
            said = first_line(error)
            raise ScorerError(
                f"judge {self.spec.name!r}: transformers cannot load {self.folder} ({said}): it needs a picture-and-"
                "text model with processor and chat template."
            ) from error
        missing = sorted(report["missing_keys"])
        if missing:  # transformers would draw them at random
            raise ScorerError(
                f"judge {self.spec.name!r}: the weights in {self.folder} lack {len(missing)} tensors (first: "
                f"{missing[0]}): fetch the model again."
            )
        return processor, model.to(self.device).eval()

    def _check_memory(self, dtype: torch.dtype) -> None:
        """Refuse a model that cannot fit, before it fills the machine's memory.

        Raises:
            InfrastructureError: it cannot.
        """
        import os

        from nbench.scoring.judge.environment import WAYS

        if not self.device.startswith("cpu") or not hasattr(os, "sysconf"):
            return
        needed = weight_bytes(self.folder) * (2 if self._dtype_name == "float32" else 1)  # most are stored in 16 bits
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        if needed > memory:
            raise InfrastructureError(
                f"judge {self.spec.name!r} needs about {needed / 2**30:.0f} GiB in this process, which has "
                f"{memory / 2**30:.0f}: serve {self.spec.model} elsewhere. {WAYS}."
            )

    @cached_property
    def token_ids(self) -> Mapping[str, int]:
        """The id of each label.

        Raises:
            ScorerError: one is several tokens.
        """
        tokenizer = self._loaded[0].tokenizer
        found = {label: tokenizer.encode(label, add_special_tokens=False) for label in self.spec.labels}
        check_labels(self.spec, {label: ids[0] if len(ids) == 1 else None for label, ids in found.items()})
        unknown = tokenizer.unk_token_id
        check_labels(self.spec, {label: None if ids[0] == unknown else ids[0] for label, ids in found.items()})
        return {label: ids[0] for label, ids in found.items()}

    def prepare(self) -> None:
        """Load the model and check that it knows the labels; does nothing the second time."""
        _ = self.token_ids

    def ask(self, questions: Sequence[Question]) -> list[Answer | Unanswered]:
        """One answer per question, in order."""
        ids = self.token_ids
        return [self._answer(question, ids) for question in questions]

    def _answer(self, question: Question, ids: Mapping[str, int]) -> Answer | Unanswered:
        import torch

        began = time.monotonic()
        processor, model = self._loaded
        images = [picture.image for picture in question.pictures]
        inputs = processor(text=[self._text(question)], images=images or None, return_tensors="pt").to(self.device)
        longest = self.spec.max_model_len
        length = int(inputs["input_ids"].shape[1])
        if longest is not None and length >= longest:
            return Unanswered(f"the question has {length} tokens, and max_model_len is {longest}")
        try:
            with torch.inference_mode():
                logits = model(**inputs, logits_to_keep=1).logits[0, -1].float()
        except torch.OutOfMemoryError as error:
            raise InfrastructureError(
                f"judge {self.spec.name!r} has not enough memory on {self.device} for one question: lower max_pixels "
                "of its image, or serve it elsewhere; what is scored is kept."
            ) from error
        shares = logits.softmax(-1)
        top = int(shares.argmax())
        wanted = {label: float(shares[ids[label]]) for label in question.tokens}
        return Answer(processor.tokenizer.decode([top]), wanted, seconds=time.monotonic() - began)

    def _text(self, question: Question) -> str:
        """The prompt, from the chat template: the same turns as `request_json` sends."""
        content: list[dict[str, str]] = []
        for number in range(1, len(question.pictures) + 1):
            if len(question.pictures) > 1:
                content.append({"type": "text", "text": f"Image {number}:"})
            content.append({"type": "image"})
        content.append({"type": "text", "text": question.fixed + question.text})
        messages: list[dict[str, Any]] = [{"role": "user", "content": content}]
        if question.system:
            messages.insert(0, {"role": "system", "content": [{"type": "text", "text": question.system}]})
        if question.stem:
            messages.append({"role": "assistant", "content": [{"type": "text", "text": question.stem}]})
        text: str = self._loaded[0].apply_chat_template(
            messages,
            tokenize=False,
            add_generation_prompt=not question.stem,
            continue_final_message=bool(question.stem),
            **self.spec.chat_template_kwargs,
        )
        return text

    def close(self) -> None:
        """Let go of the model."""
        for name in ("_loaded", "token_ids"):
            self.__dict__.pop(name, None)


@contextlib.contextmanager
def _without_bars() -> Iterator[None]:
    """Without the progress bars of transformers, which would break nbench's own."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def check_labels(spec: JudgeSpec, ids: Mapping[str, int | None]) -> None:
    """Refuse a scale with a label that is not one token of the model.

    Args:
        spec: of the judge.
        ids: of each label; None for one that is several tokens, or unknown.

    Raises:
        ScorerError: there is one, or two labels are the same token.
    """
    for label, number in ids.items():
        if number is None:
            raise ScorerError(
                f"judge {spec.name!r}: the rating word {label!r} is not one token of {spec.model}: choose other words "
                "for its scale (many tokenizers know a word with a space before it, after a stem)."
            )
    if len(set(ids.values())) < len(ids):
        raise ScorerError(f"judge {spec.name!r}: two rating words are the same token of {spec.model}: drop one.")
