"""Figures of pocket-realism on held-out concepts and generators, its card and its calibration chart."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nbench.pocket.recipes.cards import package_list
from nbench.pocket.recipes.realism_data import HELD_OUT_CONCEPTS, STEPS, Bytes, Pictures, pictures_of, read, shards
from nbench.pocket.world import CONCEPTS
from nbench.report.realism import calibration_chart, markdown_table
from nbench.scoring.realism.check import check_detector, log_odds
from nbench.scoring.realism.detector import WEIGHTS, Detector, load_detector
from nbench.scoring.realism.roc import auc, calibration_error, reliability

CONTROL_PICTURES = 320  # of each set that the controls are measured on


def measure(export: Path, folder: Path, trained: Sequence[str], held_out: Sequence[str]) -> dict[str, Any]:
    """All figures, as plain values.

    Args:
        export: the detector.
        folder: pictures of `realism_data`.
        trained: generators that it saw; measured on held-out concepts.
        held_out: generators that it never saw; measured on both sorts of concept.

    Returns:
        "auc": a row per generator, sort of concept and step count; "controls": mean rise of the log-odds by control on
        generated pictures at the largest step count; "calibration": bins by set, with the mean error.
    """
    detector = load_detector(export)
    sets = [(name, "test-new", "trained on") for name in trained]
    sets += [(name, split, "held out") for name in held_out for split in ("test", "test-new")]
    rows: list[dict[str, Any]] = []
    pooled: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {}
    controls: dict[str, dict[str, dict[str, float]]] = {}
    for name, split, generator in sets:
        pictures = read(shards(folder, name, split))
        concepts = "new" if split == "test-new" else "as in training"
        odds = {side: _odds(detector, getattr(pictures, side)) for side in ("fake", "real", "raw")}
        for steps in STEPS:
            chosen = pictures.steps == steps
            if chosen.any():
                rows.append(
                    {"generator": name, "was": generator, "concepts": concepts, "steps": steps}
                    | _row(odds, pictures, chosen)
                )
        logits = np.concatenate((odds["real"], odds["fake"]))
        truth = np.repeat([1.0, 0.0], len(odds["real"]))
        known = "known" if generator == "trained on" else "new"
        what = f"{known} generators, {'new' if concepts == 'new' else 'known'} concepts"
        pooled.setdefault(what, []).append((logits, truth))
        if name in (trained[0], *held_out[:1]) and split == "test-new":
            controls[name] = _controls(detector, pictures)
    calibration = {}
    for what, parts in pooled.items():
        bins = reliability(np.concatenate([p[0] for p in parts]), np.concatenate([p[1] for p in parts]))
        calibration[what] = {"error": calibration_error(bins), "bins": [vars(one) for one in bins]}
    return {
        "held_out_concepts": sorted(CONCEPTS[i].noun for i in HELD_OUT_CONCEPTS),
        "auc": rows,
        "controls": controls,
        "calibration": calibration,
    }


def _odds(detector: Detector, rows: Bytes) -> np.ndarray:
    return log_odds(detector, pictures_of(rows), {})


def _row(odds: Mapping[str, np.ndarray], pictures: Pictures, chosen: np.ndarray) -> dict[str, Any]:
    """AUC against round trips and against scenes as composed; whole concepts are resampled."""
    groups = pictures.concept[chosen]
    coded, plain = (
        auc(odds[side][chosen], odds["fake"][chosen], real_groups=groups, fake_groups=groups)
        for side in ("real", "raw")
    )
    return {
        "pictures": int(chosen.sum()),
        "auc": coded.value,
        "low": coded.low,
        "high": coded.high,
        "auc_as_composed": plain.value,
        "log_odds_real": float(odds["real"][chosen].mean()),
        "log_odds_generated": float(odds["fake"][chosen].mean()),
    }


def _controls(detector: Detector, pictures: Pictures) -> dict[str, dict[str, float]]:
    last = pictures.where(pictures.steps == max(STEPS))
    images = pictures_of(last.fake[:CONTROL_PICTURES])
    found = check_detector(detector, images, [str(c) for c in last.concept[:CONTROL_PICTURES]])
    return {
        effect.name: {
            "rise": effect.rise.mean,
            "low": effect.rise.low,
            "high": effect.rise.high,
            "share": effect.share,
        }
        for effect in found.controls
    }


def write_card(
    export: Path, figures: Mapping[str, Any], *, commands: Sequence[str], log: Path, pictures: int, note: str
) -> None:
    """README.md and calibration.svg of the detector's folder.

    Args:
        export: the folder.
        figures: of `measure`.
        commands: that made the pictures and the weights.
        log: log.jsonl of the training.
        pictures: generated pictures that it was trained on.
        note: a sentence on the generators.
    """
    from safetensors import safe_open

    from nbench.scoring.realism.roc import Bin

    last = json.loads(log.read_text().splitlines()[-1])
    with safe_open(export / WEIGHTS, "pt") as handle:
        parameters = sum(int(np.prod(handle.get_slice(name).get_shape())) for name in handle.keys())  # noqa: SIM118
    rows = [
        (
            f"{row['generator']} ({row['was']})",
            row["concepts"],
            str(row["steps"]),
            f"{row['auc']:.3f} ({row['low']:.3f} to {row['high']:.3f})",
            f"{row['auc_as_composed']:.3f}",
            f"{row['log_odds_real']:+.2f}",
            f"{row['log_odds_generated']:+.2f}",
        )
        for row in figures["auc"]
    ]
    headings = ("generator", "concepts", "steps", "AUC", "AUC, as composed", "real", "generated")
    names = list(figures["controls"])
    effects = [
        (control, *(_effect(figures["controls"][name][control]) for name in names))
        for control in figures["controls"][names[0]]
    ]
    sets = {
        f"{what}: {found['error']:.3f} off": [Bin(**one) for one in found["bins"]]
        for what, found in figures["calibration"].items()
    }
    (export / "calibration.svg").write_text(calibration_chart("pocket-realism", sets))
    lines = "\n    ".join(commands)
    (export / "README.md").write_text(f"""# pocket-realism

Log-odds that a 64x64 pocket picture is a composed scene and not a generated one, by a conv net. It exists so that a
first run, the tests and the bundled studies have a realism column; it knows nothing of other pictures.

- Real side: scenes composed by `nbench.pocket.recipes.data` from emoji pictures (MIT licence); three of four after a
  round trip through the pocket autoencoder with a little noise on the latents, so that the codec is no cue.
- Generated side: {pictures:,} pictures of the generators marked "trained on" below, at {", ".join(map(str, STEPS))}
  steps and guidance 1, 2.5, 4.5 and 7. Prompts name the facts of composed scenes, so both sides show the same things.
  {note}
- The convolutions first learned to read composed scenes, as pocket-probe's did, but of the concepts not held out.
- Pictures of both sides are turned, mirrored, and their colour channels exchanged. Half of them also come disturbed
  (noise, blur, JPEG, resizing; both sides alike), and no disturbance may raise the log-odds. Wrecks (pure noise, one
  colour, heavy noise or blur, exchanged tiles) stand on the generated side, the canaries black, white and noise among
  them: that it sees through those is no surprise.
- Never seen in training: the generators marked "held out" and {len(figures["held_out_concepts"])} of {len(CONCEPTS)}
  concepts ({", ".join(figures["held_out_concepts"])}).
- Steps: {last["step"] + 1:,}. Training time: {last["seconds"] / 60:.1f} minutes, one CPU thread of a busy machine.
- Parameters: {parameters:,}, stored in fp16, computed in fp32. Licence of the weights: MIT, as the pictures.
- Limits: all generators here share one autoencoder architecture, and the held-out one shares its weights with
  pocket-sd3's. "New" concepts come from the same two families of emoji.

Made by

    {lines}

Source packages:

{package_list()}

## Held-out figures

AUC of round trips of composed scenes against generated pictures of the same facts, with a 95 % interval over concepts;
beside it that of scenes as composed, and the mean log-odds of both sides. Undecided is 0.

{markdown_table(headings, rows)}

## Controls

Mean rise of the log-odds of {max(STEPS)}-step pictures of new concepts, with a 95 % interval over concepts. A claim
that a checkpoint is more realistic by less than the largest figure cannot rest on this detector.

{markdown_table(("control", *names), effects)}

## Calibration

![calibration](calibration.svg)

Mean distance between predicted probability and share, half of the pictures real, all step counts pooled: \
{"; ".join(f"{what} {found['error']:.3f}" for what, found in figures["calibration"].items())}.
""")


def _effect(row: Mapping[str, float]) -> str:
    return f"{row['rise']:+.2f} ({row['low']:+.2f} to {row['high']:+.2f})"
