"""Which checkpoint, as the user says it: the spec and its command-line form. Imports nothing heavy."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from nbench.errors import CheckpointError

Dtype = Literal["float32", "bfloat16", "float16"]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True)
class CheckpointSpec:
    """Which weights, and how they are run.

    Attributes:
        name: what the user calls it: letters, digits, `.`, `_` and `-`.
        base: a diffusers folder, a hub id, or a bundled checkpoint (`pocket-sd3`, `pocket-flux`).
        lora: a LoRA folder, a .safetensors file, or a hub id; None for the base alone.
        lora_scale: factor on the LoRA's own scaling.
        dtype: of every component.
        device: "auto" (CUDA when there is one, else the CPU) or a torch device.
        revision: hub revision of the base.
        max_sequence_length: tokens that T5 prompts are padded to; None is the checkpoint's or the family's default.
    """

    name: str
    base: str
    lora: str | None = None
    lora_scale: float = 1.0
    dtype: Dtype = "float32"
    device: str = "auto"
    revision: str | None = None
    max_sequence_length: int | None = None

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise CheckpointError(
                f"checkpoint name {self.name!r} cannot be used: write letters, digits, '.', '_' and '-', "
                "starting with a letter or digit."
            )
        if not self.base:
            raise CheckpointError(f"checkpoint {self.name!r} has no base: write {self.name}=FOLDER or a hub id.")


def parse_checkpoint(text: str) -> CheckpointSpec:
    """Read the command-line form `name=BASE[+LORA][@REVISION]`.

    A `+` or `@` that is part of an existing path stays part of it.

    Raises:
        CheckpointError: the form is not followed.
    """
    name, equals, rest = text.partition("=")
    if not equals:
        guess = re.sub(r"[^A-Za-z0-9._-]+", "-", Path(text.partition("+")[0]).name).strip("-._") or "base"
        raise CheckpointError(f"checkpoint {text!r} has no name: write NAME=BASE[+LORA], e.g. {guess}={text}.")
    name, rest = name.strip(), rest.strip()
    revision: str | None = None
    base, lora = _split_lora(rest)
    if lora is not None and not Path(lora).exists():
        lora, revision = _split_revision(lora, revision)
    if not Path(base).exists():
        base, revision = _split_revision(base, revision)
    for part, what in ((base, "base"), (lora, "LoRA"), (revision, "revision")):
        if part == "":
            raise CheckpointError(f"checkpoint {text!r} has an empty {what}: write NAME=BASE[+LORA][@REVISION].")
    return CheckpointSpec(name=name, base=base, lora=lora, revision=revision)


def _split_lora(text: str) -> tuple[str, str | None]:
    if "+" not in text or Path(text).exists():
        return text, None
    cuts = [match.start() for match in re.finditer(r"\+", text)]
    cut = next((cut for cut in cuts if Path(text[:cut]).exists()), cuts[0])
    return text[:cut], text[cut + 1 :]


def _split_revision(text: str, found: str | None) -> tuple[str, str | None]:
    if found is not None or "@" not in text:
        return text, found
    rest, _, revision = text.rpartition("@")
    return rest, revision
