"""Every error nbench raises on purpose. Each message says what is wrong, where, and what to do."""

from __future__ import annotations

from collections.abc import Iterable


class NbenchError(Exception):
    """Root of the tree. The command line prints the message without a traceback and exits with `exit_code`."""

    exit_code = 3


class UsageError(NbenchError):
    """The user's input is wrong: a suite, a flag, a file."""


class CheckpointError(UsageError):
    """A checkpoint is missing, is not a flow-matching model, or a LoRA does not fit it."""


class PromptSetError(UsageError):
    """A prompt set is missing, empty, or malformed."""


class ScorerError(UsageError):
    """A scorer is unknown, or its weights cannot be had."""


class CardMismatchError(UsageError):
    """Two runs, or a run and its resumption, are not comparable."""


class InfrastructureError(NbenchError):
    """The machine failed: disk, device, server. The run can be resumed."""

    exit_code = 4


class StoreError(InfrastructureError):
    """The store cannot be read or written."""


class RunLockedError(InfrastructureError):
    """Another process is working on the run."""


class RunInterruptedError(InfrastructureError):
    """The user stopped the run. It can be resumed."""


def first_line(error: BaseException, most: int = 200) -> str:
    """The first line of what another library's error says, cut to `most` characters; its type where it is silent."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:most]


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The end of a message about an unknown name: " Did you mean 'x'?", or " Known: a, b." when nothing is near.

    The text begins with a space, so that it can follow a full sentence; it is "" when `known` is empty.
    """
    import difflib

    names = list(known)
    by_folded = {candidate.lower(): candidate for candidate in names}
    near = difflib.get_close_matches(name.lower(), by_folded, n=1, cutoff=0.6)
    if near:
        return f" Did you mean {by_folded[near[0]]!r}?"
    return f" Known: {', '.join(sorted(names))}." if names else ""
