"""The OCR reward of Flow-GRPO, as a function of two strings: what the prompt asks for and what was read.

With `target` the text between the prompt's first pair of double quotes and `read` all recognised lines joined, both in
lower case and without spaces, and n = len(target):

    distance = 0 if target is a part of read, else Levenshtein(read, target)
    reward   = 1 - min(distance, n) / n

Source: flow_grpo/ocr.py of the Flow-GRPO repository (arXiv 2505.05470). Because a target anywhere in `read` counts as
perfect, filling a picture with text is never punished; `strict` and `surplus` are here to show it.
"""

from __future__ import annotations

from dataclasses import dataclass

from nbench.errors import ScorerError


@dataclass(frozen=True)
class Reading:
    """How well `read` matches `target`.

    Attributes:
        reward: Flow-GRPO's reward, 0 to 1.
        strict: the same without the rule that a target inside longer text is perfect, 0 to 1.
        exact: 1 where the two are equal, else 0.
        substring: 1 where the target is a part of what was read, else 0.
        surplus: share of the read characters beyond the target's length, 0 to below 1; 0 where nothing was read.
    """

    reward: float
    strict: float
    exact: float
    substring: float
    surplus: float


def normalised(text: str) -> str:
    """Without spaces (only U+0020, as the reference) and in lower case."""
    return text.replace(" ", "").lower()


def target_text(prompt: str) -> str | None:
    """The text between the first two straight double quotes, or None where there is none or it is blank.

    The reference takes what follows a single quote mark (5" wide) for the target, and stops a whole batch at a prompt
    without any; here both are prompts that ask for no text.
    """
    parts = prompt.split('"', 2)
    if len(parts) < 3 or not normalised(parts[1]):
        return None
    return parts[1]


def compare(read: str, target: str) -> Reading:
    """Compare what was read with what was asked for.

    Args:
        read: all recognised lines, joined.
        target: the quoted text, not blank.

    Raises:
        ScorerError: rapidfuzz is not installed.
        ValueError: the target is blank.
    """
    try:
        from rapidfuzz.distance import Levenshtein
    except ImportError as error:
        raise ScorerError("OCR scores need the package rapidfuzz: pip install 'nbench[ocr]'.") from error

    read, target = normalised(read), normalised(target)
    if not target:
        raise ValueError("the target is blank")
    length = len(target)
    distance = min(Levenshtein.distance(read, target), length)
    contained = target in read
    return Reading(
        reward=1.0 if contained else 1 - distance / length,
        strict=1 - distance / length,
        exact=float(read == target),
        substring=float(contained),
        surplus=max(0, len(read) - length) / len(read) if read else 0.0,
    )
