"""Take finished checkpoints of a study over as bundled LoRAs, in half precision, with their cards.

    nbench study pocket --stage train --only 'pocket-sd3-nft-aesthetic-*-s0'
    python -m nbench.pocket.recipes.fine_tuned nbench-studies/pocket

The two are those of the study's first seed, whatever they came out as.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
from pathlib import Path

from nbench.flow.weights import POCKET_WEIGHTS

_FILE = "pytorch_lora_weights.safetensors"
#: bundled name -> training of the study
TRAININGS = {
    "pocket-sd3-nft": "pocket-sd3-nft-aesthetic-unguarded-s0",
    "pocket-sd3-nft-normguard": "pocket-sd3-nft-aesthetic-normguard-s0",
}


def card(name: str, study: Path, training: str, source: str, parameters: int) -> str:
    """README.md of the weights folder."""
    folder = study / "trainings" / training
    log = [json.loads(line) for line in (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    result = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    first, last = log[0], log[-1]
    norm = last["stats"]["norm_ratio"]["mean"]
    guards = ", ".join(f"{guard} with lambda {weight:.3g}" for guard, weight in result["guards"].items()) or "none"
    return f"""# {name}

A LoRA on pocket-sd3, fine-tuned by NFT for `pocket-aesthetic` alone, on pictures of its own: it has seen no other data.
It is there so that a first run shows what RL fine-tuning does to pictures; it is no model to use.

- Guards: {guards}.
- Recipe: `nbench study pocket --stage train --only {training}`, then
  `python -m nbench.pocket.recipes.fine_tuned nbench-studies/pocket`.
- Config: `leaderboards/studies/pocket.yaml`; seed 0, {result["epochs"]} epochs, {result["steps"]} optimiser steps,
  {result["train_seconds"] / 60:.1f} minutes on one of two busy CPU cores.
- Mean reward of the rollouts, first and last epoch (of different prompts): {first["reward"]["mean"]:.2f} and
  {last["reward"]["mean"]:.2f}. Velocity norm over the base's in the last epoch: {norm:.3f}.
- Parameters: {parameters:,}, stored in fp16, computed in fp32. sha256 of the study's own file, in fp32:
  `{source}`.
- Licence of the weights: MIT, as those of pocket-sd3.
"""


def main() -> None:
    """Command line."""
    import torch
    from safetensors.torch import load_file, save_file

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path)
    parser.add_argument("--out", type=Path, default=POCKET_WEIGHTS)
    args = parser.parse_args()
    for name, training in TRAININGS.items():
        path = args.study / "trainings" / training / "final" / "policy" / _FILE
        tensors = {key: tensor.to(torch.float16).contiguous() for key, tensor in load_file(path).items()}
        folder = args.out / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        save_file(tensors, folder / _FILE)
        source = hashlib.sha256(path.read_bytes()).hexdigest()
        parameters = sum(tensor.numel() for tensor in tensors.values())
        (folder / "README.md").write_text(card(name, args.study, training, source, parameters), encoding="utf-8")
        print(folder)


if __name__ == "__main__":
    main()
