"""Training a detector on one's own real and generated pictures: the split, the two kinds, the figures.

From scratch it is a `RealismNet`, for thousands of pictures; on a frozen backbone it is a logistic regression, for
hundreds. Either way whole groups are held out, and all figures are of those.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nbench.errors import UsageError
from nbench.scoring.realism.detector import CONFIG, WEIGHTS, DetectorConfig
from nbench.scoring.realism.pictures import GROUP, Picture, differences, read_folder, split
from nbench.scoring.realism.views import View

if TYPE_CHECKING:
    import torch
    from PIL import Image
    from torch import nn

FEWEST_GROUPS = 10  # on either side, for a split that says anything
WIDTHS = (32, 64, 128, 256)
COPIES = 3  # disturbed copies of each picture that a head is trained on, beside the picture


@dataclass(frozen=True)
class TrainSettings:
    """How a detector is trained.

    Attributes:
        name: of the detector, on its card.
        size: side of the square that it sees, in pixels.
        mode: "crop" (no resizing) or "resize"; see `View`.
        grid: cuts per side that are averaged in scoring.
        backbone: folder of a timm backbone in the hub's layout; None trains a conv net from scratch.
        steps: of a training from scratch.
        batch: pictures per step, half of them real.
        lr: of a training from scratch.
        held_out: share of the groups that the figures are of.
        group: regular expression on a file's name; see `read_folder`.
        allow_bias: train though the sides differ in format or size.
        seed: of the split and the training.
    """

    name: str
    size: int = 224
    mode: str = "crop"
    grid: int = 1
    backbone: Path | None = None
    steps: int = 1000
    batch: int = 64
    lr: float = 1e-3
    held_out: float = 0.2
    group: str = GROUP
    allow_bias: bool = False
    seed: int = 0

    @property
    def command(self) -> str:
        """What makes the same detector of the same folders, for its card."""
        given = {name: value for name, value in vars(self).items() if value != getattr(TrainSettings, name, None)}
        words = [
            f"--{name.replace('_', '-')} {value.name if isinstance(value, Path) else value}"
            for name, value in given.items()
            if name not in ("name", "mode")
        ]
        words = ["--allow-bias" if word.startswith("--allow-bias") else word for word in words]
        return " ".join(["nbench realism train REAL_DIR FAKE_DIR", *(["--resize"] * (self.mode == "resize")), *words])


@dataclass(frozen=True)
class Sides:
    """Real and generated pictures for training and held out.

    Attributes:
        real, fake: for training.
        real_out, fake_out: held out.
        biases: what tells the sides apart without looking.
    """

    real: list[Picture]
    fake: list[Picture]
    real_out: list[Picture]
    fake_out: list[Picture]
    biases: list[str]


def read_sides(real: Path, fake: Path, settings: TrainSettings) -> Sides:
    """Read both folders, look for what tells them apart, and split them by group.

    Raises:
        UsageError: the sides differ in format or size (unless that is allowed), there are too few groups, or pictures
            are smaller than the cuts.
    """
    sides = read_folder(real, settings.group), read_folder(fake, settings.group)
    biases = differences(*sides)
    if biases and not settings.allow_bias:
        raise UsageError(
            f"a detector would learn the difference of the folders, not of the pictures: {'; '.join(biases)}. Bring "
            "both sides to one format and size (cut and save the real pictures as the generated ones were), or pass "
            "--allow-bias and expect figures that mean little."
        )
    for folder, side in zip((real, fake), sides, strict=True):
        groups = {picture.group for picture in side}
        if len(groups) < FEWEST_GROUPS:
            raise UsageError(
                f"{folder} has {len(side)} pictures in {len(groups)} groups by name ({', '.join(sorted(groups)[:3])}); "
                f"{FEWEST_GROUPS} groups are needed for a split without leakage: name them with --group REGEX, or pass "
                "--group '(.+)' where every picture is of another scene."
            )
        small = [picture for picture in side if settings.mode == "crop" and min(picture.size) < settings.size]
        if small:
            raise UsageError(
                f"{small[0].path} is {small[0].size[0]}x{small[0].size[1]} ({len(small)} such pictures), smaller than "
                f"the {settings.size} pixels to look at: pass a smaller --size, or --resize."
            )
    parts = [split(side, settings.held_out, settings.seed) for side in sides]
    for (kept, out), folder in zip(parts, (real, fake), strict=True):
        if len({picture.group for picture in out}) < 2 or not kept:
            raise UsageError(
                f"holding out {settings.held_out:g} of the groups leaves {folder} too few on one side: give more "
                "pictures, another --held-out or another --seed."
            )
    return Sides(parts[0][0], parts[1][0], parts[0][1], parts[1][1], biases)


def train_detector(
    sides: Sides, out: Path, settings: TrainSettings, *, command: str, tell: Callable[[str], None] = lambda text: None
) -> DetectorConfig:
    """Train, and write detector.json and model.safetensors into `out`; a stopped training goes on where it was.

    Args:
        sides: of `read_sides`.
        out: the detector's folder; the state of an unfinished training is kept in `out/training`.
        settings: of the training.
        command: that made it, for the card.
        tell: called with what is being done.

    Raises:
        ScorerError: the backbone cannot be had.
        UsageError: `out` holds an unfinished training of something else.
    """
    import shutil

    import torch

    torch.manual_seed(settings.seed)
    out.mkdir(parents=True, exist_ok=True)
    view = View("crop" if settings.mode == "crop" else "resize", settings.size, settings.grid)
    config = DetectorConfig(
        name=settings.name,
        summary=f"Log-odds of real by a detector trained on {len(sides.real)} real and {len(sides.fake)} generated "
        "pictures of one's own.",
        view=view,
        licence="that of the pictures it was trained on",
        source=command,
    )
    if settings.backbone is None:
        config = replace(config, widths=WIDTHS)
        _same_training(out / "training", sides, settings)
        net = _from_scratch(config, sides, out / "training", settings)
    else:
        config, net = _on_backbone(config, sides, settings, tell)
    _save(net, out / WEIGHTS)
    (out / CONFIG).write_text(config.as_json(), encoding="utf-8")
    shutil.rmtree(out / "training", ignore_errors=True)
    return config


def _same_training(state: Path, sides: Sides, settings: TrainSettings) -> None:
    """Note what is being trained, or refuse to go on with a training of something else."""
    import json

    facts = json.dumps(facts_of(sides, settings), indent=1, sort_keys=True)
    noted = state / "facts.json"
    if noted.exists() and noted.read_text(encoding="utf-8") != facts:
        raise UsageError(
            f"{state} holds an unfinished training of other pictures or settings: repeat its command, delete the "
            "folder, or choose another --out."
        )
    state.mkdir(parents=True, exist_ok=True)
    noted.write_text(facts, encoding="utf-8")


def _from_scratch(config: DetectorConfig, sides: Sides, state: Path, settings: TrainSettings) -> nn.Module:
    from nbench.scoring.realism.fit import fit

    opened = lru_cache(maxsize=4096)(Picture.open)

    def draw(rng: random.Random, count: int) -> tuple[list[Image.Image], list[Image.Image]]:
        return [opened(rng.choice(sides.real)) for _ in range(count)], [
            opened(rng.choice(sides.fake)) for _ in range(count)
        ]

    return fit(
        config.build(),
        config.view,
        draw,
        out=state,
        steps=settings.steps,
        batch=settings.batch,
        lr=settings.lr,
        seed=settings.seed,
    )


def _on_backbone(
    config: DetectorConfig, sides: Sides, settings: TrainSettings, tell: Callable[[str], None]
) -> tuple[DetectorConfig, nn.Module]:
    import torch

    from nbench.scoring.realism.backbone import HeadOnBackbone, fit_head, load_backbone
    from nbench.scoring.realism.controls import wreck

    assert settings.backbone is not None
    backbone, architecture, arguments, wanted = load_backbone(settings.backbone)
    side = int(wanted["input_size"][-1])
    if settings.size != side:
        raise UsageError(f"the backbone {settings.backbone} takes {side} pixels: pass --size {side}.")
    view = replace(config.view, mean=tuple(wanted["mean"]), std=tuple(wanted["std"]))
    config = replace(config, view=view, architecture=architecture, arguments=arguments)
    net = HeadOnBackbone(backbone).eval()
    rng = random.Random(settings.seed)
    rows, labels = [], []
    for what, pictures, label in (("real", sides.real, 1.0), ("generated", sides.fake, 0.0)):
        tell(f"features of {len(pictures)} {what} pictures, {1 + COPIES} times each")
        cuts = _copies(pictures, view, rng)
        with torch.inference_mode():
            rows += [net.backbone(view.tensor(cuts[i : i + 32])).float() for i in range(0, len(cuts), 32)]
        labels += [label] * len(cuts)
    whole = [picture.open() for picture in sides.real[:: max(1, len(sides.real) // 64)]]
    wrecks = [wreck(view.random_cut(image, rng), rng) for image in whole]
    with torch.inference_mode():
        rows.append(net.backbone(view.tensor(wrecks)).float())
    labels += [0.0] * len(wrecks)
    fit_head(net, torch.cat(rows), torch.tensor(labels))
    return config, net


def _copies(pictures: Sequence[Picture], view: View, rng: random.Random) -> list[Image.Image]:
    from nbench.scoring.realism.controls import disturb

    found = []
    for picture in pictures:
        image = picture.open()
        found.append(view.random_cut(image, rng))
        found += [disturb(view.random_cut(image, rng), rng) for _ in range(COPIES)]
    return found


def _save(net: nn.Module, path: Path) -> None:
    from safetensors.torch import save_file

    state: dict[str, torch.Tensor] = {name: value.detach().contiguous() for name, value in net.state_dict().items()}
    save_file(state, path)
    path.chmod(0o644)  # safetensors writes for the owner alone


def facts_of(sides: Sides, settings: TrainSettings) -> dict[str, Any]:
    """What detector.json keeps about the training, as plain values."""

    def count(pictures: Sequence[Picture]) -> dict[str, int]:
        return {"pictures": len(pictures), "groups": len({picture.group for picture in pictures})}

    return {
        "trained_on": {"real": count(sides.real), "generated": count(sides.fake)},
        "held_out": {"real": count(sides.real_out), "generated": count(sides.fake_out)},
        "biases": sides.biases,
        "settings": {name: str(value) if isinstance(value, Path) else value for name, value in vars(settings).items()},
    }
