"""Judge specs: which model is asked what, and how its next token becomes a number.

A spec is a YAML file. Those that ship lie in `judges/`; a spec may extend another one and then names only what differs.
Whatever is asked, the answer is read in one way: over the labels of the scale,

    value = sum_l P(l) v_l / sum_l P(l),        label mass = sum_l P(l)

with P the probability of the next token over the whole vocabulary (Wu et al., "Q-Align", ICML 2024, reads ratings so).
For a scale of yes (1) and no (0) the value is P(yes) / (P(yes) + P(no)).
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from nbench.errors import UsageError, did_you_mean
from nbench.resources import bundled
from nbench.yaml_files import first_fault, read_mapping

Mode = Literal["pointwise", "items", "pairwise", "alignment"]
#: what a question may name to get the picture's prompt
PROMPT = "{prompt}"
#: raised when the way that answers become numbers changes
READING = "1"
_NAME = re.compile(r"[a-z0-9][a-z0-9_.-]*")


def _label(value: object) -> object:
    """YAML reads the words yes, no and 1 as something else than words; a label is one."""
    if not isinstance(value, dict):
        return value
    names: dict[object, str] = {True: "yes", False: "no"}
    return {names[key] if isinstance(key, bool) else str(key): number for key, number in value.items()}


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Item(_Part):
    """One yes/no question of a judge of mode `items`.

    Attributes:
        name: of its metric.
        question: text.
        good: whether yes (the label of value 1) is the better answer.
    """

    name: str
    question: str
    good: bool = False


class Resize(_Part):
    """How a picture is brought to the judge, whatever serves it; by default at its own size.

    Attributes:
        side: make it a square of this side.
        max_pixels: reduce a larger picture to so many pixels, keeping its proportions.
    """

    side: int | None = Field(default=None, ge=1)
    max_pixels: int | None = Field(default=None, ge=1)


class JudgeSpec(_Part):
    """A judge.

    Attributes:
        name: of the spec, the last part of its scorer's name.
        summary: one sentence.
        model: hub id, folder, or a bundled model ("pocket-judge").
        revision: commit of a hub model; None takes the newest.
        mode: pointwise: one rating; items: a yes/no question each; alignment: does it show its prompt; pairwise: which
            of two is better.
        system: the system turn; "" for none.
        rubric: what to look at; after the pictures, the same in every question.
        question: after the rubric; "{prompt}" stands for the picture's prompt.
        items: the questions of mode `items`.
        scale: label -> value; each label must be one token of the model. In pairwise, 1 is for the first picture.
        stem: beginning of the answer, of which a label is the next token.
        label_mass: least probability of all labels together; below it there is no score.
        image: how a picture is resized before it is sent.
        dtype: of the weights; "auto" is float32 on a CPU and bfloat16 on a GPU.
        serve: further flags for vLLM.
        max_model_len: longest question in tokens, for vLLM; None takes the model's.
        chat_template_kwargs: for the model's chat template.
        licence: of the weights.
        fooled_by: canaries of `nbench.scoring.conformance` that it is known to rank no lower than sound pictures.
    """

    name: str
    summary: str = ""
    model: str
    revision: str | None = None
    mode: Mode
    system: str = ""
    rubric: str = ""
    question: str = ""
    items: tuple[Item, ...] = ()
    scale: Annotated[dict[str, float], BeforeValidator(_label)]
    stem: str = ""
    label_mass: float = Field(default=0.5, ge=0, le=1)
    image: Resize = Resize()
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    serve: tuple[str, ...] = ()
    max_model_len: int | None = Field(default=None, ge=1)
    chat_template_kwargs: dict[str, Any] = {}
    licence: str = ""
    fooled_by: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _consistent(self) -> JudgeSpec:
        if not _NAME.fullmatch(self.name):
            raise ValueError("a judge's name holds small letters, digits, '.', '_' and '-'")
        if len(set(self.scale.values())) < 2:
            raise ValueError("scale needs two labels of different values at least, such as {bad: 1, good: 2}")
        names = [item.name for item in self.items]
        if (self.mode == "items") != bool(names):
            raise ValueError("items are for mode items, which needs at least one")
        if len(set(names)) < len(names) or {"sound", "label_mass"} & set(names):
            raise ValueError("each item needs a name of its own, and neither sound nor label_mass")
        if self.mode in ("items", "alignment", "pairwise") and (self.least, self.most) != (0.0, 1.0):
            raise ValueError(f"the values of a scale of mode {self.mode} go from 0 to 1: they are probabilities")
        if self.mode == "alignment" and PROMPT not in self.question:
            raise ValueError(f"the question of mode alignment must hold {PROMPT}")
        if not self.rubric and not self.question and not self.items:
            raise ValueError("there is neither rubric nor question: nothing is asked")
        return self

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels, as the YAML has them."""
        return tuple(self.scale)

    @property
    def least(self) -> float:
        """Worst value of the scale."""
        return min(self.scale.values())

    @property
    def most(self) -> float:
        """Best value of the scale."""
        return max(self.scale.values())

    @property
    def uses_prompt(self) -> bool:
        """Whether a question holds the picture's prompt."""
        return any(PROMPT in text for text in self.texts)

    @property
    def texts(self) -> tuple[str, ...]:
        """The variable text of each question about one picture, or pair."""
        return tuple(item.question for item in self.items) if self.items else (self.question,)

    def asked(self, prompt: str) -> tuple[str, ...]:
        """`texts` with a picture's prompt put in."""
        return tuple(text.replace(PROMPT, prompt) for text in self.texts)

    @property
    def identity(self) -> str:
        """sha256 (hex) over everything in the spec that can move a value; not its name or what is said of it."""
        facts = self.model_dump(mode="json", exclude={"name", "summary", "licence", "fooled_by", "model", "revision"})
        text = json.dumps({**facts, "reading": READING}, sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(text.encode()).hexdigest()


def judge_paths() -> dict[str, Path]:
    """Bundled specs by name, sorted."""
    return {path.stem: path for path in sorted(bundled("judges").glob("*.yaml"))}


def load_judge(name_or_path: str | Path) -> JudgeSpec:
    """The spec of a bundled name, or of a YAML file. A model that is a folder may be relative to the file.

    Raises:
        UsageError: there is none, or something in it is wrong.
    """
    path = Path(name_or_path).expanduser()
    if path.suffix not in (".yaml", ".yml"):
        known = judge_paths()
        if str(name_or_path) not in known:
            raise UsageError(
                f"there is no judge {str(name_or_path)!r}: give a bundled name or a YAML file."
                f"{did_you_mean(str(name_or_path), known)}"
            )
        path = known[str(name_or_path)]
    try:
        return JudgeSpec.model_validate(_content(path, ()))
    except ValidationError as error:
        raise UsageError(first_fault(error, f"judge {path}", _siblings)) from error


def _content(path: Path, seen: tuple[Path, ...]) -> dict[str, Any]:
    """What a file holds, on top of what it extends."""
    content = read_mapping(path, what="judge", example="mode: pointwise")
    if isinstance(content.get("model"), str) and (path.parent / content["model"]).is_dir():
        content["model"] = str((path.parent / content["model"]).resolve())
    base = content.pop("extends", None)
    content.setdefault("name", path.stem)
    if base is None:
        return content
    if path.resolve() in seen:
        raise UsageError(f"judge {path} extends itself.")
    beside, known = path.parent / str(base), judge_paths()
    if str(base) in known:
        beside = known[str(base)]
    elif not beside.is_file():
        raise UsageError(f"judge {path} extends {base!r}, which does not exist.{did_you_mean(str(base), known)}")
    return {**_content(beside, (*seen, path.resolve())), **content}


def _siblings(location: Sequence[int | str]) -> Iterable[str]:
    parts: dict[str, type[BaseModel]] = {"items": Item, "image": Resize}
    owner = parts.get(str(location[0]), JudgeSpec) if len(location) > 1 else JudgeSpec
    return (*owner.model_fields, *(("extends",) if owner is JudgeSpec else ()))
