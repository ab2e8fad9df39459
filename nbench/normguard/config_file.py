"""Training configs as files: read, overridden, checked, and refused in one sentence."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import ValidationError

from nbench.errors import UsageError, did_you_mean
from nbench.flow.weights import BUNDLED
from nbench.normguard.config import GUARDS, METHODS, NORM_GUARDS, RewardConfig, TrainConfig
from nbench.yaml_files import read_mapping

_CONFIGS = Path(__file__).parent / "configs"

#: the hinge that `with_guard` adds, and how it is calibrated; found on pocket-sd3, see docs/training.md
DEFAULT_POWER = 2
DEFAULT_CALIBRATION = {"gradient_ratio": 0.05}


def bundled_configs() -> dict[str, Path]:
    """Bundled configs by name."""
    return {path.stem: path for path in sorted(_CONFIGS.glob("*.yaml"))}


def read_config(name_or_path: str | Path, overrides: Mapping[str, Any] | None = None) -> TrainConfig:
    """Read a config from a YAML file or by bundled name.

    Args:
        name_or_path: what to read; a file goes before a bundled name.
        overrides: dotted keys ("optim.learning_rate", "guards.0.weight") and the values that replace what the file
            says; a value that is text is read as YAML.

    Raises:
        UsageError: there is no such config, it is not YAML, a key is unknown (the nearest is named), or a value is
            wrong.
    """
    path = Path(name_or_path).expanduser()
    if not path.is_file():
        known = bundled_configs()
        if str(name_or_path) not in known:
            raise UsageError(
                f"there is no training config {str(name_or_path)!r}: give a YAML file or a bundled name."
                f"{did_you_mean(str(name_or_path), known)}"
            )
        path = known[str(name_or_path)]
    content = read_mapping(path, what="training config", example="name: my-training")
    for key, value in (overrides or {}).items():
        _override(content, key, value)
    return make_config(content, where=f"training config {path.name}", folder=path.parent)


def make_config(
    content: Mapping[str, Any], where: str = "the training config", folder: Path | None = None
) -> TrainConfig:
    """Check `content`; paths in it may be relative to `folder`, and become absolute.

    Raises:
        UsageError: a key is unknown (the nearest is named), or a value is wrong.
    """
    try:
        config = TrainConfig.model_validate(dict(content))
    except ValidationError as error:
        raise UsageError(_sentence(error, where)) from error
    base, prompts, evaluated = config.model.base, config.prompts.set, config.evaluate.prompts
    return config.model_copy(
        update={
            "model": config.model.model_copy(update={"base": base if base in BUNDLED else _absolute(base, folder)}),
            "prompts": config.prompts.model_copy(update={"set": _absolute(prompts, folder, file=True)}),
            "evaluate": config.evaluate.model_copy(
                update={"prompts": None if evaluated is None else _absolute(evaluated, folder, file=True)}
            ),
        }
    )


def with_guard(config: TrainConfig, name: str, weight: float | None = None) -> TrainConfig:
    """The config with one more norm guard, called NAME-GUARD: of power 2, and a weight or the default calibration.

    Raises:
        UsageError: the guard is unknown, is there already, or does not suit the method.
    """
    if name not in NORM_GUARDS:
        raise UsageError(
            f"--guard takes a norm guard, not {name!r}: write others into the config.{did_you_mean(name, NORM_GUARDS)}"
        )
    content = config.model_dump(mode="json")
    chosen = {"weight": weight} if weight is not None else {"calibrate": DEFAULT_CALIBRATION}
    content["guards"] = [*content["guards"], {"name": name, "power": DEFAULT_POWER, **chosen}]
    content["name"] = f"{config.name}-{name}"
    return make_config(content, where="--guard")


def _absolute(text: str, folder: Path | None, *, file: bool = False) -> str:
    """A path that exists, made absolute, so that a training can be resumed from anywhere; anything else as it is."""
    for root in (Path(), folder or Path()):
        path = root / Path(text).expanduser()
        if path.is_file() if file else path.exists():
            return str(path.resolve())
    return text


def _override(content: dict[str, Any], key: str, value: Any) -> None:
    if isinstance(value, str):
        try:
            value = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise UsageError(f"the value of {key} is not YAML: {value!r}.") from error
    parts = key.split(".")
    place: Any = content
    for depth, (part, following) in enumerate(zip(parts, [*parts[1:], None], strict=True)):
        if isinstance(place, list):
            if not part.isdigit() or int(part) >= len(place):
                raise UsageError(f"{key} does not exist: {part!r} is no index of a list of {len(place)}.")
            index: Any = int(part)
        elif isinstance(place, dict):
            index = part
        else:
            raise UsageError(f"{key} does not exist: there is nothing below {'.'.join(parts[:depth])!r}.")
        if following is None:
            place[index] = value
        elif isinstance(place, dict):
            place = place.setdefault(index, {})
        else:
            place = place[index]


def _sentence(error: ValidationError, where: str) -> str:
    """The first thing wrong, in one sentence."""
    details = error.errors()
    # A misspelt key is also a missing one: the misspelling is what the user can see.
    detail = next((one for one in details if one["type"] == "extra_forbidden"), details[0])
    location = _place(detail["loc"])
    place = ".".join(str(part) for part in location)
    context = detail.get("ctx", {})
    if detail["type"] == "union_tag_invalid":
        known = re.findall(r"'([^']+)'", str(context.get("expected_tags", "")))
        what = "method" if location[0] == "method" else "guard"
        return f"{where} names an unknown {what} {context.get('tag')!r}.{did_you_mean(str(context.get('tag')), known)}"
    if detail["type"] == "union_tag_not_found":
        return f"{where} has no name in {place!r}: add a line `name: ...`."
    if detail["type"] == "extra_forbidden":
        return f"{where} has an unknown key {place!r}.{did_you_mean(str(location[-1]), _siblings(detail['loc']))}"
    if detail["type"] == "missing":
        return f"{where} has no {place!r}: add it."
    message = detail["msg"].removeprefix("Value error, ")
    if detail["type"] == "value_error":
        return f"{where}: {message}." if not place or place in message else f"{where}, {place}: {message}."
    return f"{where}: {place} is {detail['input']!r}: {message[0].lower()}{message[1:]}."


def _place(location: Sequence[int | str]) -> list[int | str]:
    """Where the user finds it, as overrides are written: without pydantic's tag of a method or a guard."""
    tag = {"method": 1, "guards": 2}.get(str(location[0])) if location else None
    return [part for i, part in enumerate(location) if i != tag and not str(part).startswith("function-")]


def _siblings(location: Sequence[int | str]) -> list[str]:
    """Field names of the model that holds the unknown key."""
    model: Any = TrainConfig
    for part in location[:-1]:
        if part in METHODS or part in GUARDS:
            model = {**METHODS, **GUARDS}[str(part)]
        elif part == "rewards":
            model = RewardConfig
        elif part in model.model_fields:
            annotation = model.model_fields[part].annotation
            model = next((one for one in (annotation, *get_args(annotation)) if hasattr(one, "model_fields")), model)
    return list(model.model_fields)
