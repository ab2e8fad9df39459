"""Numbers as pages and boards print them."""

from __future__ import annotations

import json
import math
from typing import Any

_MINUS = "−"  # as wide as a plus
NONE = "–"


def number(value: float | None, digits: int = 3) -> str:
    """Three significant digits, no exponent for everyday sizes; a dash for no number."""
    if value is None or not math.isfinite(value):
        return NONE
    if value == 0:
        return "0"
    size = math.floor(math.log10(abs(value)))
    text = f"{value:.{max(0, digits - 1 - size)}f}" if -4 <= size < 6 else f"{value:.{digits - 1}e}"
    return text.replace("-", _MINUS)


def places(*values: float) -> int:
    """Decimals with which these numbers, printed alike, show two or three digits of the largest."""
    known = [abs(value) for value in values if math.isfinite(value) and value]
    return 2 if not known else min(6, max(0, 2 - math.floor(math.log10(max(known)))))


def signed(value: float, decimals: int) -> str:
    """With its sign."""
    if not math.isfinite(value):
        return NONE
    text = f"{value:+.{decimals}f}"
    return text.replace("-", _MINUS) if float(text) else f"{0:.{decimals}f}"


def interval(low: float, high: float, decimals: int) -> str:
    """Both bounds, with their signs."""
    if math.isnan(low) or math.isnan(high):
        return "no interval"
    return f"{_bound(low, decimals)} to {_bound(high, decimals)}"


def _bound(value: float, decimals: int) -> str:
    return signed(value, decimals) if math.isfinite(value) else ("∞" if value > 0 else f"{_MINUS}∞")


def steps(value: float) -> str:
    """Steps to match, or "never"."""
    if math.isnan(value):
        return NONE
    return "never" if math.isinf(value) else f"{value:.3g}"


def short(digest: str) -> str:
    """The beginning of a hash."""
    return digest[:12]


def pretty(value: Any) -> str:
    """JSON, indented."""
    return json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False)
