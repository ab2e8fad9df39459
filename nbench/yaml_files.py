"""YAML files that users write: read into a mapping, or refused in one sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from nbench.errors import UsageError


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
