"""Model cards and fp16 weight files of the pocket scorers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file

from nbench.pocket.recipes.data import PACKAGES


def save_half(state: Mapping[str, torch.Tensor], path: Path) -> None:
    """Write a state dict as safetensors, floating-point tensors in fp16; the same state gives the same bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    half = {
        name: (value.half() if value.is_floating_point() else value).detach().contiguous().clone()
        for name, value in state.items()
    }
    save_file(half, path)
    path.chmod(0o644)


def package_list() -> str:
    """The source packages with their digests, as Markdown list items."""
    return "\n".join(f"- `{spec}` (npm), sha256 `{digest}`" for spec, (_, digest) in PACKAGES.items())


def model_card(
    *,
    title: str,
    summary: str,
    command: str,
    log: Path,
    parameters: int,
    figures: Mapping[str, float],
    figures_say: str,
) -> str:
    """The README.md of a weights folder, its figures as the recipe printed them.

    Args:
        title: name of the model.
        summary: what it is, in a sentence or two.
        command: the command that trained it.
        log: the log.jsonl that `common.train` wrote; its last line gives steps and time.
        parameters: how many weights.
        figures: held-out figures by name.
        figures_say: what the figures are, in one sentence.
    """
    last = json.loads(log.read_text().splitlines()[-1])
    rows = "\n".join(f"| {name} | {value:.4f} |" for name, value in figures.items())
    return f"""# {title}

{summary}

- Data: scenes composed by `nbench.pocket.recipes.data` from emoji pictures (MIT licence), drawn during training. No
  generated picture was used.
- Recipe: `{command}`
- Steps: {last["step"] + 1}. Training time: {last["seconds"] / 60:.1f} minutes, one CPU thread.
- Parameters: {parameters:,}, stored in fp16, computed in fp32.
- Licence of the weights: MIT, as the pictures.

Source packages:

{package_list()}

## Held-out figures

{figures_say}

| figure | value |
| --- | --- |
{rows}
"""
