"""One spelling for each value: canonical JSON and its sha256, the ground of every key and card."""

from __future__ import annotations

import hashlib
import json
from typing import Any


def canonical_json(value: Any) -> str:
    """`value` as ASCII JSON with sorted keys and no spaces; floats as the shortest text that reads back equal.

    Raises:
        ValueError: a float is not finite.
        TypeError: something is not a JSON value.
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def digest(value: Any) -> str:
    """sha256, hex, of the canonical JSON of `value`."""
    return hashlib.sha256(canonical_json(value).encode("ascii")).hexdigest()
