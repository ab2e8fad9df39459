"""Put a trained pocket base together, measure it, and write its card.

    python -m nbench.pocket.recipes.release sd3 --work WORK --out nbench/pocket/weights/pocket-sd3

Takes the averaged weights of `recipes.flow` (the distilled ones, where there are any) and the autoencoder of
`recipes.vae` (with its fine-tuned decoder, where there is one).
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL

from nbench.pocket.recipes.architectures import build_family
from nbench.pocket.recipes.cards import package_list
from nbench.pocket.recipes.evaluate import measure

_SUMMARIES = {
    "sd3": "A `StableDiffusion3Pipeline` for 64x64 pictures: five MM-DiT blocks of width 256 on 16 picture tokens, two "
    "small CLIP text encoders, no T5 (`max_sequence_length=1`), classifier-free guidance.",
    "flux": "A `FluxPipeline` for 64x64 pictures: two double and three single blocks of width 256 on 16 picture "
    "tokens, a small CLIP and a small T5 text encoder, guidance distilled into the guidance embedding.",
}


def _log(folder: Path) -> tuple[int, float]:
    """Steps and minutes of one training, from its log."""
    last = json.loads((folder / "log.jsonl").read_text().splitlines()[-1])
    return last["step"] + 1, last["seconds"] / 60


def card(family: str, work: Path, parameters: int, figures: dict[str, Any], note: str) -> str:
    """README.md of the weights folder."""
    name = f"pocket-{family}"
    recipe = "python -m nbench.pocket.recipes"
    trainings = {
        "the autoencoder": ("vae", f"{recipe}.vae --work WORK --steps {{}}"),
        "its decoder alone": (
            "vae-decoder",
            f"{recipe}.vae --work WORK --decoder-only WORK/vae/export --steps {{}} --batch 24 --lr 5e-4 "
            "--muon-lr 0.015 --seed 5",
        ),
        "flow matching": (
            f"flow-{family}",
            f"{recipe}.flow --family {family} --work WORK --vae WORK/vae/export --compile --steps {{}}",
        ),
        "guidance distillation": (f"flow-{family}-distilled", "# then the same with --distill-steps {}"),
    }
    commands, spent = [], []
    for what, (folder, command) in trainings.items():
        if (work / folder).exists():
            steps, minutes = _log(work / folder)
            commands.append(command.format(steps))
            spent.append(f"- Steps of {what}: {steps:,} in {minutes:.0f} minutes.")
    commands.append(f"{recipe}.release {family} --work WORK --out nbench/pocket/weights/{name}")
    following = figures["following"]
    facts = list(figures["chance"])
    rows = [
        f"| {steps} | " + " | ".join(f"{following[steps][fact]:.3f}" for fact in facts) + " |" for steps in following
    ]
    chance = "| chance | " + " | ".join(f"{figures['chance'][fact]:.3f}" for fact in facts) + " |"
    distance = figures["mean_pixel_distance"]
    return f"""# {name}

{_SUMMARIES[family]}
It exists so that a first run, the tests and the bundled studies use the code that full-size checkpoints use; it is no
measure of them.

- Data: scenes composed by `nbench.pocket.recipes.data` from emoji pictures (MIT licence): 124 concepts, two styles, ten
  backgrounds, one to three copies. Captions name a random subset of a scene's facts.
- Licence of the weights: MIT, as the pictures.
- Parameters: {parameters:,} without the autoencoder, stored in fp16, computed in fp32.
{chr(10).join(spent)}

One CPU thread each, several jobs at a time on a 2-core machine, so times are upper bounds. {note}

    {(chr(10) + "    ").join(commands)}

Source packages:

{package_list()}

## What it does (figures of the release command)

Share of {figures["prompts"]} pictures in which `pocket-probe`, a classifier that was trained on real pictures only,
reads what the prompt named, by number of steps, at guidance {figures["guidance"]:g}. One to three copies are asked for
equally often.

| steps | {" | ".join(facts)} |
| ---: | {" | ".join("---:" for _ in facts)} |
{chr(10).join(rows)}
{chance}

Mean pixel distance between four seeds of a prompt at 28 steps: {distance["seeds"]:.3f}; between real scenes that
share its caption: {distance["real"]:.3f}. Seconds per 28-step picture in batches of 16, one thread:
{figures["seconds"]:.2f}.
"""


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("family", choices=("sd3", "flux"))
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--sheets", type=Path, help="where unselected sheets go; default: WORK/sheets-FAMILY")
    parser.add_argument("--note", default="", help="a sentence for the card on how the training went")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    source = args.work / f"flow-{args.family}-distilled"
    if not source.exists():
        source = args.work / f"flow-{args.family}"
    state = torch.load(source / "state.pt", map_location="cpu", weights_only=True)
    family = build_family(args.family, args.work / "tokenizers")
    family.load_state_dict(state["emas"]["family"])
    decoder = args.work / "vae-decoder" / "export"
    vae = AutoencoderKL.from_pretrained(decoder if decoder.exists() else args.work / "vae" / "export")
    shutil.rmtree(args.out, ignore_errors=True)
    family.save_pipeline(args.out, vae)
    sheets = args.sheets or args.work / f"sheets-{args.family}"
    figures = measure(str(args.out), work=args.work, sheets=sheets, threads=args.threads)
    (args.out / "figures.json").write_text(json.dumps(figures, indent=2) + "\n")
    parameters = sum(p.numel() for p in family.parameters())
    (args.out / "README.md").write_text(card(args.family, args.work, parameters, figures, args.note))
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
