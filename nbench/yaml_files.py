"""YAML files that users write: read into a mapping, checked, or refused in one sentence."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from nbench.errors import UsageError, did_you_mean


def read_mapping(path: Path, *, what: str, example: str) -> dict[str, Any]:
    """The mapping that a YAML file holds.

    Args:
        path: of the file.
        what: it is, for messages: "suite".
        example: a line such as it should have.

    Raises:
        UsageError: it is not YAML, cannot be read, or is not a mapping.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"{what} {path} is not YAML: {' '.join(str(error).split())}.") from error
    except OSError as error:
        raise UsageError(f"{what} {path} cannot be read: {error.strerror}.") from error
    if not isinstance(content, dict):
        raise UsageError(f"{what} {path} is not a mapping: write lines such as `{example}`.")
    return content


def first_fault(error: ValidationError, where: str, siblings: Callable[[Sequence[int | str]], Iterable[str]]) -> str:
    """The first thing that pydantic found wrong, in one sentence.

    Args:
        error: of the validation.
        where: what was being read, e.g. "suite x.yaml".
        siblings: the location of an unknown key -> the keys that its mapping may have.
    """
    details = error.errors()
    # A misspelt key is also a missing one: the misspelling is what the user can see.
    detail = next((one for one in details if one["type"] == "extra_forbidden"), details[0])
    location = [part for part in detail["loc"] if not str(part).startswith("function-")]
    place = ".".join(str(part) for part in location)
    if detail["type"] == "extra_forbidden":
        return f"{where} has an unknown key {place!r}.{did_you_mean(str(location[-1]), siblings(location))}"
    if detail["type"] == "missing":
        return f"{where} has no {place!r}: add it."
    message = detail["msg"].removeprefix("Value error, ").removesuffix(".")
    if detail["type"] == "value_error":
        return f"{where}: {place + ': ' if place else ''}{message}."
    return f"{where}: {place} is {detail['input']!r}, but {message[:1].lower()}{message[1:]}."
