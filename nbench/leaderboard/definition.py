"""What a board ranks: a YAML file of base, prompts, steps, measures and entries, checked before anything is read."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator, model_validator

from nbench.comparable import ALLOWANCES
from nbench.errors import UsageError, did_you_mean
from nbench.resources import bundled
from nbench.scoring.scorer import Kind
from nbench.yaml_files import first_fault, read_mapping

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def usable_name(name: str) -> str:
    """`name`, if it can be a file's name and an anchor.

    Raises:
        ValueError: it cannot.
    """
    if not _NAME.fullmatch(name):
        raise ValueError(
            f"{name!r} cannot be used as a name: write up to 64 letters, digits, '.', '_' and '-', starting with a "
            "letter or digit"
        )
    return name


def web_address(url: str) -> str:
    """`url`, if a page may link to it.

    Raises:
        ValueError: it is not http(s).
    """
    if url and not re.fullmatch(r"https?://[^\s\"'<>]+", url):
        raise ValueError(f"{url!r} is no web address: it begins with http:// or https://")
    return url


class Part(BaseModel):
    """A frozen model that refuses unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class About(Part):
    """What its author says of a checkpoint; shown, never computed with.

    Attributes:
        method: how it was fine-tuned, e.g. "NFT".
        guard: what held its velocity norms, e.g. "norm hinge 0.1"; "" for none.
        trained_on: scorers or measures that it was optimised for. Marked wherever they are part of a figure.
        notes: one or two sentences.
        url: web page of the checkpoint.
    """

    method: str = Field(default="", max_length=60)
    guard: str = Field(default="", max_length=60)
    trained_on: tuple[str, ...] = ()
    notes: str = Field(default="", max_length=500)
    url: str = Field(default="", max_length=300)

    _url = field_validator("url")(web_address)


class Origin(About):
    """A checkpoint of a run in the store, or a submission.

    Attributes:
        name: on the board; "" is the checkpoint's, or the submission's.
        run: name or folder of a run; "" for a submission.
        checkpoint: in the run.
        submission: folder, relative to the definition; "" for a run.
    """

    name: str = ""
    run: str = ""
    checkpoint: str = ""
    submission: str = ""

    @field_validator("name")
    @classmethod
    def _usable(cls, name: str) -> str:
        return usable_name(name) if name else name

    @model_validator(mode="after")
    def _one_origin(self) -> Origin:
        if bool(self.submission) == bool(self.run or self.checkpoint):
            raise ValueError("an entry is either a run with a checkpoint, or a submission")
        if self.run and not self.checkpoint:
            raise ValueError(f"run {self.run!r} needs a checkpoint of it")
        if self.checkpoint and not self.run:
            raise ValueError(f"checkpoint {self.checkpoint!r} needs the run that holds it")
        return self


def _origin(value: object) -> object:
    """A string is a submission's folder."""
    return {"submission": value} if isinstance(value, str) else value


class Definition(Part):
    """A board.

    Attributes:
        name: of the board, and of its folder.
        title: above it.
        description: what it is about, in a paragraph.
        label: a warning that every rendering shows first, e.g. that the models are toys.
        base: what every checkpoint is paired with.
        steps: step counts, ascending; all entries need them all.
        few, full: the step counts that "few" and "full" mean; the first and the last without them.
        kinds: kinds of scorers that count; every measure of them that the base has and that has a better side.
        scorers: measures or scorers that count beside.
        prompts: hash of the prompts, which the base's card must show; "" takes the base's.
        true_zero: measures whose 0 means "none of it", for which retention (few over full) makes sense.
        coverage: least share of the base's values that an entry must have too, by measure.
        allow: parts of the cards that may differ, see `nbench.comparable.ALLOWANCES`; marked on the board.
        gallery: prompts shown with pictures, spread over their tags, never chosen by score.
        entries: checkpoints of runs, or submissions.
        submissions: a folder, relative to the definition; every folder in it is an entry, in order of name.
    """

    name: str
    title: str = Field(max_length=120)
    description: str = Field(default="", max_length=2000)
    label: str = Field(default="", max_length=300)
    base: Annotated[Origin, BeforeValidator(_origin)]
    steps: tuple[Annotated[int, Field(ge=1)], ...] = Field(min_length=2)
    few: int = 0
    full: int = 0
    kinds: tuple[Kind, ...] = ("reward", "judge", "realism", "diversity")
    scorers: tuple[str, ...] = ()
    prompts: str = ""
    true_zero: tuple[str, ...] = ()
    coverage: Annotated[float, Field(gt=0, le=1)] = 1.0
    allow: tuple[str, ...] = ()
    gallery: int = Field(default=6, ge=0, le=24)
    entries: tuple[Annotated[Origin, BeforeValidator(_origin)], ...] = ()
    submissions: str = ""

    _name = field_validator("name")(usable_name)

    @model_validator(mode="after")
    def _consistent(self) -> Definition:
        if list(self.steps) != sorted(set(self.steps)):
            raise ValueError(f"steps {list(self.steps)} must ascend")
        for name in ("few", "full"):
            value = getattr(self, name)
            if value and value not in self.steps:
                raise ValueError(f"{name}: {value} is not among the steps {list(self.steps)}")
        if self.few_steps >= self.full_steps:
            raise ValueError(f"few ({self.few_steps}) must be less than full ({self.full_steps})")
        if not self.kinds and not self.scorers:
            raise ValueError("a board names kinds of scorers, scorers, or both")
        for name in self.allow:
            if name not in ALLOWANCES:
                raise ValueError(f"unknown allowance {name!r}.{did_you_mean(name, ALLOWANCES)}")
        return self

    @property
    def few_steps(self) -> int:
        """The step count that "few" means."""
        return self.few or self.steps[0]

    @property
    def full_steps(self) -> int:
        """The step count that "full" means."""
        return self.full or self.steps[-1]


def find_definition(name_or_path: str | Path) -> Path:
    """The file of a definition: a path, or a name among the bundled ones.

    Raises:
        UsageError: there is none.
    """
    path = Path(name_or_path).expanduser()
    if path.is_file():
        return path
    known = {found.stem: found for found in sorted(bundled("leaderboards").glob("*.yaml"))}
    if str(name_or_path) in known:
        return known[str(name_or_path)]
    hint = did_you_mean(path.name, known)
    raise UsageError(f"there is no board definition {str(name_or_path)!r}: give a YAML file.{hint}")


def read_definition(path: Path) -> Definition:
    """Read a definition.

    Raises:
        UsageError: not YAML, an unknown key (the nearest is named), or a wrong value.
    """
    return make_definition(read_mapping(path, what="board", example="steps: [2, 4, 8, 28]"), f"board {path}")


def make_definition(content: dict[str, Any], where: str = "the board") -> Definition:
    """Check `content` and make it a definition.

    Raises:
        UsageError: as `read_definition`.
    """
    try:
        return Definition.model_validate(content)
    except ValidationError as error:
        raise UsageError(first_fault(error, where, _siblings)) from error


def _siblings(location: Sequence[int | str]) -> Iterable[str]:
    return (Origin if location[0] in ("base", "entries") and len(location) > 1 else Definition).model_fields
