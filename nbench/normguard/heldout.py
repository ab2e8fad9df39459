"""The held-out prompts of a training, written where its results lie, so that anybody can evaluate on them again."""

from __future__ import annotations

from pathlib import Path

import yaml

from nbench.errors import UsageError
from nbench.prompts import PromptSet, load_prompt_set
from nbench.runs.files import write_atomic


def write_held_out(prompts: PromptSet, path: Path) -> PromptSet:
    """Write `prompts` as a prompt-set file, with their source and licence, and the hash of their content.

    The set is named after the file. A file that holds the same prompts already stays as it is.

    Args:
        prompts: the held-out prompts, perhaps a limited set.
        path: of the file, ending in .yaml.

    Returns:
        The set as a run reads it from `path`: the same prompts in the same order.

    Raises:
        UsageError: `path` holds other prompts, which results in its folder were made with.
        PromptSetError: `path` is not a .yaml file or cannot be read, or a prompt cannot be written (an empty text).
        StoreError: the disk refuses.
    """
    if not path.exists():
        write_atomic(path, _as_yaml(prompts, path.stem).encode("utf-8"))
    written = load_prompt_set(path)
    if written.content_hash != prompts.content_hash:
        raise UsageError(
            f"{path} holds other held-out prompts than this training has; use another output folder, or the prompts "
            "that it was started with."
        )
    return written


def _as_yaml(prompts: PromptSet, name: str) -> str:
    total = prompts.total or len(prompts)
    content = {
        "name": name,
        "description": f"{len(prompts)} of the {total} prompts of {prompts.name}, held out from training.",
        "source": prompts.source,
        "licence": prompts.licence,
        "count": len(prompts),
        "hash": prompts.content_hash,
        "prompts": [{"id": prompt.id, "text": prompt.text, "tags": list(prompt.tags)} for prompt in prompts],
    }
    text: str = yaml.safe_dump(content, sort_keys=False, allow_unicode=True, default_flow_style=None, width=100_000)
    return text
