"""The suite: what the user asks a run to do, in YAML or in flags. Every default stands here."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator, model_validator

from nbench.errors import UsageError, did_you_mean
from nbench.flow.load import CheckpointSpec, parse_checkpoint
from nbench.flow.weights import BUNDLED, BUNDLED_LORAS
from nbench.runs.canonical import digest
from nbench.yaml_files import first_fault, read_mapping

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_SUITES = Path(__file__).parent / "suites"


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, hide_input_in_errors=False)


def _words(value: object) -> object:
    """A comma-separated string as the list that YAML would give."""
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


def _steps(value: object) -> object:
    value = _words([value] if isinstance(value, int) else value)
    if not isinstance(value, list | tuple):
        raise ValueError("steps are whole numbers of at least 1, such as 2,4,8,28")
    steps = []
    for step in value:
        text = str(step).strip()
        if isinstance(step, bool) or not text.isascii() or not text.isdigit() or int(text) < 1:
            raise ValueError(f"{step!r} is not a number of steps: write whole numbers of at least 1, such as 2,4,8,28")
        steps.append(int(text))
    if not steps:
        raise ValueError("no number of steps is given: write whole numbers of at least 1, such as 2,4,8,28")
    return tuple(sorted(set(steps)))


class Checkpoint(_Model):
    """One checkpoint of a suite.

    Attributes:
        name: what tables call it.
        base: a diffusers folder, a hub id, or a bundled pocket checkpoint.
        lora: LoRA folder, .safetensors file or hub id.
        lora_scale: factor on the LoRA's own scaling.
        revision: hub revision.
        guidance: overrides the suite's guidance for this checkpoint.
        max_sequence_length: text length of T5 prompts; None is the family's default.
    """

    name: str
    base: str
    lora: str | None = None
    lora_scale: float = 1.0
    revision: str | None = None
    guidance: float | None = Field(default=None, ge=0)
    max_sequence_length: int | None = Field(default=None, ge=1)

    def spec(self, *, device: str, dtype: str) -> CheckpointSpec:
        """How `nbench.flow.load` takes it.

        Raises:
            CheckpointError: the name cannot be used.
        """
        return CheckpointSpec(
            name=self.name,
            base=self.base,
            lora=self.lora,
            lora_scale=self.lora_scale,
            dtype=dtype,  # type: ignore[arg-type]  # a Literal there; `Suite` holds it to the same words
            device=device,
            revision=self.revision,
            max_sequence_length=self.max_sequence_length,
        )


def _checkpoints(value: object) -> object:
    if not isinstance(value, list | tuple):
        raise ValueError("checkpoints are a list, each NAME=BASE[+LORA][@REVISION] or a mapping with name and base")
    return [_checkpoint(parse_checkpoint(entry)) if isinstance(entry, str) else entry for entry in value]


def _checkpoint(spec: CheckpointSpec) -> dict[str, Any]:
    fields = {"name": spec.name, "base": spec.base, "lora": spec.lora, "revision": spec.revision}
    return {key: value for key, value in fields.items() if value is not None}


class Rescale(_Model):
    """Inference-time rescale of the velocity norm to the reference checkpoint's (a control; costs a forward per step).

    Attributes:
        phi: 0 leaves the norm, 1 takes the reference's.
        one_sided: only ever shorten.
    """

    phi: float = Field(default=1.0, ge=0, le=1)
    one_sided: bool = False


class Suite(_Model):
    """Everything that a run is asked to do.

    Attributes:
        name: of the run; "" takes a name from the hash of the settings.
        checkpoints: at least one. The first is the reference unless `reference` names another.
        reference: the checkpoint that norm ratios and rescale refer to; "" is the first.
        prompts: a prompt set by name or path.
        limit: use at most so many prompts, spread over their tags.
        steps: step counts, ascending.
        seeds: pictures per prompt.
        seed: run seed, from which every cell's noise follows.
        grid: "diffusers" is the stock pipeline's sigma grid, "linspace" explicit sigmas from 1 to 1/N before the shift.
        guidance: None is each family's default.
        height, width: in pixels; None is the checkpoints' own resolution.
        batch_size: pictures per forward.
        scorers: by name.
        norm_ratio: record the ratio of each velocity norm to the reference's at the same state (one more forward per
            step).
        rescale: see `Rescale`; None for none.
        device: "auto" is CUDA when there is one.
        dtype: "auto" is float32 on the CPU and bfloat16 elsewhere.
    """

    name: str = ""
    checkpoints: Annotated[tuple[Checkpoint, ...], BeforeValidator(_checkpoints)]
    reference: str = ""
    prompts: str = "pocket"
    limit: int | None = Field(default=None, ge=1)
    steps: Annotated[tuple[int, ...], BeforeValidator(_steps)] = (4, 8, 28)
    seeds: int = Field(default=4, ge=1)
    seed: int = Field(default=0, ge=0)
    grid: Literal["diffusers", "linspace"] = "diffusers"
    guidance: float | None = Field(default=None, ge=0)
    height: int | None = Field(default=None, ge=1)
    width: int | None = Field(default=None, ge=1)
    batch_size: int = Field(default=16, ge=1)
    scorers: Annotated[tuple[str, ...], BeforeValidator(_words)] = ()
    norm_ratio: bool = False
    rescale: Rescale | None = None
    device: str = "auto"
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"

    @field_validator("name")
    @classmethod
    def _usable_name(cls, name: str) -> str:
        if name and not _NAME.fullmatch(name):
            raise ValueError("a run name holds letters, digits, '.', '_' and '-', and starts with a letter or digit")
        return name

    @model_validator(mode="after")
    def _consistent(self) -> Suite:
        names = [checkpoint.name for checkpoint in self.checkpoints]
        if not names:
            raise ValueError("there is no checkpoint: add at least one, NAME=BASE[+LORA]")
        for names_of, what in ((names, "checkpoint"), (list(self.scorers), "scorer")):
            twice = sorted({name for name in names_of if names_of.count(name) > 1})
            if twice:
                raise ValueError(f"{what} {twice[0]!r} is there twice: give each its own name")
        if self.reference and self.reference not in names:
            raise ValueError(f"reference {self.reference!r} is not a checkpoint.{did_you_mean(self.reference, names)}")
        if (self.height is None) != (self.width is None):
            raise ValueError("give both height and width, or neither")
        return self

    @property
    def reference_name(self) -> str:
        """The checkpoint that is compared with."""
        return self.reference or self.checkpoints[0].name

    @property
    def run_name(self) -> str:
        """`name`, or one made from the settings."""
        return self.name or f"run-{digest(self.model_dump(mode='json', exclude={'name'}))[:10]}"

    def to_yaml(self) -> str:
        """The suite as YAML that `read_suite` reads back equal."""
        text: str = yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
        return text


def bundled_suites() -> dict[str, Path]:
    """Bundled suites by name."""
    return {path.stem: path for path in sorted(_SUITES.glob("*.yaml"))}


def read_suite(name_or_path: str | Path, overrides: Mapping[str, Any] | None = None) -> Suite:
    """Read a suite from a YAML file or by bundled name; `overrides` (flags) replace its fields.

    Paths of checkpoints and prompts in a file may be relative to the file.

    Raises:
        UsageError: no such suite, not YAML, an unknown key, or a wrong value.
    """
    path = Path(name_or_path)
    if not path.is_file():
        known = bundled_suites()
        if str(name_or_path) not in known:
            hint = did_you_mean(path.name, known)
            raise UsageError(f"there is no suite {str(name_or_path)!r}: give a YAML file.{hint}")
        path = known[str(name_or_path)]
    content = read_mapping(path, what="suite", example="steps: [2, 4, 8, 28]")
    _from_file(content, path.parent)
    return make_suite({**content, **(overrides or {})}, where=f"suite {path}")


def make_suite(content: Mapping[str, Any], where: str = "the command line") -> Suite:
    """Check `content` and make it a suite with absolute paths.

    Raises:
        UsageError: an unknown key (the nearest is named), or a wrong value.
    """
    try:
        suite = Suite.model_validate(dict(content))
    except ValidationError as error:
        raise UsageError(first_fault(error, where, _siblings)) from error
    checkpoints = tuple(
        checkpoint.model_copy(update={"base": _absolute_base(checkpoint.base), "lora": _absolute_lora(checkpoint.lora)})
        for checkpoint in suite.checkpoints
    )
    return suite.model_copy(update={"checkpoints": checkpoints, "prompts": _absolute(suite.prompts, file=True)})


def _absolute_base(base: str) -> str | None:
    """As `_absolute`; a bundled checkpoint's name always means that checkpoint, as `nbench.flow.load` takes it."""
    return base if base in BUNDLED else _absolute(base)


def _absolute_lora(lora: str | None) -> str | None:
    """As `_absolute`; a bundled LoRA's name always means that LoRA."""
    return lora if lora in BUNDLED_LORAS else _absolute(lora)


def _absolute(text: str | None, *, file: bool = False) -> str | None:
    """A path that exists, made absolute, so that a run can be resumed from another folder; anything else as it is.

    With `file`, a folder is no such path: one that happens to be called like a prompt set must not hide it.
    """
    if text is None or not (Path(text).expanduser().is_file() if file else Path(text).expanduser().exists()):
        return text
    return str(Path(text).expanduser().resolve())


def _from_file(content: dict[str, Any], folder: Path) -> None:
    """Resolve paths in a suite file against its folder, where that leads to something."""

    def resolved(value: object) -> object:
        if isinstance(value, str) and value and value not in (*BUNDLED, *BUNDLED_LORAS) and (folder / value).exists():
            return str((folder / value).resolve())
        return value

    if "prompts" in content:
        prompts = content["prompts"]
        if isinstance(prompts, str) and (folder / prompts).is_file():
            content["prompts"] = str((folder / prompts).resolve())
    checkpoints = content.get("checkpoints")
    if not isinstance(checkpoints, list):
        return
    content["checkpoints"] = [_checkpoint(parse_checkpoint(e)) if isinstance(e, str) else e for e in checkpoints]
    for entry in content["checkpoints"]:
        if isinstance(entry, dict):
            entry.update({key: resolved(entry[key]) for key in ("base", "lora") if key in entry})


def _siblings(location: Sequence[int | str]) -> Iterable[str]:
    parts: dict[str, type[BaseModel]] = {"checkpoints": Checkpoint, "rescale": Rescale}
    return parts.get(str(location[0]), Suite).model_fields
