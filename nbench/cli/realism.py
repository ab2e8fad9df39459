"""`nbench realism check` and `train`: is a detector fit for a claim, and a detector of one's own."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from nbench.cli.run import STORE_OPTION

if TYPE_CHECKING:
    from collections.abc import Callable

FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)
GROUP_OPTION = click.option(
    "--group",
    metavar="REGEX",
    help="Its first bracket names what a file belongs to; the path below the folder is matched, without suffix. "
    "Default: the name without its last part behind -, _ or . ('fox-3.png' is of 'fox').",
)


@click.group()
def realism() -> None:
    """Check realism detectors, and train one on your own pictures."""


@realism.command("check")
@click.argument("detector")
@click.option("--run", "run_name", metavar="RUN", help="Take the generated pictures of a run's base.")
@click.option("--checkpoint", help="Which checkpoint of the run is the base; by default the run's reference.")
@click.option("--steps", type=int, help="At which step count; by default the run's largest.")
@click.option("--effect-of", metavar="CHECKPOINT", help="Claim what this checkpoint of the run gains over the base.")
@click.option("--fake", type=FOLDER, help="Take the generated pictures of a folder instead.")
@click.option("--real", type=FOLDER, help="Folder of real pictures, encoded and sized as the generated ones.")
@click.option("--claim", type=float, help="The rise of the mean log-odds that is to be claimed.")
@click.option("--limit", type=click.IntRange(2), help="Use at most so many pictures of each side, the first ones.")
@click.option("--allow-bias", is_flag=True, help="Measure though the sides differ in format or size.")
@GROUP_OPTION
@click.option("--device", default="cpu", show_default=True, help="Torch device that the detector runs on.")
@click.option("--json", "as_json", is_flag=True, help="The result as JSON.")
@STORE_OPTION
@click.pass_context
def check(
    context: click.Context,
    detector: str,
    run_name: str | None,
    checkpoint: str | None,
    steps: int | None,
    effect_of: str | None,
    fake: Path | None,
    real: Path | None,
    claim: float | None,
    limit: int | None,
    allow_bias: bool,
    group: str | None,
    device: str,
    as_json: bool,
    store: Path,
) -> None:
    """Check DETECTOR (a scorer's name, or a detector's folder) on your own pictures.

    Measures the AUC of real against generated pictures, and how much noise, blur, JPEG and resizing alone raise the
    log-odds of the generated ones. Exits with 0 when the detector is fit for the claim, 1 when it is unfit, 2 when
    these pictures cannot decide it.
    """
    import json

    from rich.console import Console

    from nbench.cli.realism_sources import find_detector, paired_effect, read_run
    from nbench.errors import UsageError
    from nbench.report.realism import auc_words, check_json, control_table
    from nbench.runs.store import Store
    from nbench.scoring.realism.check import check_detector
    from nbench.scoring.realism.pictures import GROUP, differences, read_folder

    if (run_name is None) == (fake is None):
        raise UsageError("give the generated pictures, either as --run RUN or as --fake DIR.")
    if claim is not None and effect_of is not None:
        raise UsageError("give either --claim or --effect-of.")
    if run_name is None and (checkpoint or steps is not None or effect_of):
        raise UsageError("--checkpoint, --steps and --effect-of go with --run.")
    scorer = find_detector(detector, device)
    tell = _tell(quiet=as_json)
    source = str(fake)
    effect = None
    if run_name is not None:
        of_run = read_run(Store(store), run_name, checkpoint=checkpoint, steps=steps, limit=limit, other=effect_of)
        made, source = of_run.base, of_run.words
        if of_run.pairs:
            tell(f"the effect of {effect_of} in {len(of_run.pairs)} pairs")
            effect = paired_effect(scorer, of_run.pairs)
            claim = effect.mean
    else:
        made = read_folder(fake or Path(), group or GROUP)[:limit]
    true = read_folder(real, group or GROUP)[:limit] if real is not None else []
    biases = differences(true, made) if true else []
    if biases and not allow_bias:
        raise UsageError(
            f"the AUC would measure the difference of the folders: {'; '.join(biases)}. Bring the real pictures to "
            "the format and size of the generated ones, or pass --allow-bias; the verdict is then undecided at best."
        )
    result = check_detector(
        scorer,
        [picture.open() for picture in made],
        [picture.group for picture in made],
        real=[picture.open() for picture in true],
        real_groups=[picture.group for picture in true],
        biases=biases,
        tell=tell,
    )
    fitness, reasons = result.verdict(claim, effect)
    if as_json:
        click.echo(json.dumps({"generated": source, **check_json(result, claim, effect)}, indent=1))
    else:
        Console().print(control_table(result, claim))
        click.echo(f"AUC, real against {source}: {auc_words(result.auc)}.")
        if effect is not None:
            span = f"{effect.low:+.3f} to {effect.high:+.3f}; {effect.values} pairs"
            click.echo(f"{effect_of} gains {effect.mean:+.3f} ({span}).")
        for reason, count in result.failures.items():
            click.echo(f"No score for {count} pictures: {reason}.")
        words = _claimed(claim, result.greatest.rise.high)
        click.echo(f"{result.scorer} is {fitness} for {words}" + (f": {'; '.join(reasons)}." if reasons else "."))
    context.exit({"fit": 0, "unfit": 1, "undecided": 2}[fitness])


@realism.command("train")
@click.argument("real", metavar="REAL_DIR", type=FOLDER)
@click.argument("fake", metavar="FAKE_DIR", type=FOLDER)
@click.option("--out", required=True, type=click.Path(file_okay=False, path_type=Path), help="The detector's folder.")
@click.option("--name", help="Of the detector; by default the name of its folder.")
@click.option(
    "--size", type=click.IntRange(16), help="Side of the square it looks at. Default: 224, or the backbone's."
)
@click.option("--resize", is_flag=True, help="Bring pictures to --size instead of cutting; fine traces are lost.")
@click.option("--grid", type=click.IntRange(1, 5), default=1, show_default=True, help="Cuts per side in scoring.")
@click.option("--backbone", type=FOLDER, help="Frozen timm backbone (folder in the hub's layout) under a linear head.")
@click.option("--steps", type=click.IntRange(1), default=1000, show_default=True, help="Of a training from scratch.")
@click.option("--batch", type=click.IntRange(4), default=64, show_default=True, help="Pictures per step.")
@click.option("--lr", type=click.FloatRange(0, min_open=True), default=1e-3, show_default=True)
@click.option("--held-out", type=click.FloatRange(0.05, 0.5), default=0.2, show_default=True, help="Share of groups.")
@click.option("--allow-bias", is_flag=True, help="Train though the sides differ in format or size.")
@GROUP_OPTION
@click.option("--seed", type=int, default=0, show_default=True)
def train(
    real: Path,
    fake: Path,
    out: Path,
    name: str | None,
    size: int | None,
    resize: bool,
    grid: int,
    backbone: Path | None,
    steps: int,
    batch: int,
    lr: float,
    held_out: float,
    allow_bias: bool,
    group: str | None,
    seed: int,
) -> None:
    """Train a detector on pictures of REAL_DIR against those of FAKE_DIR.

    Whole groups are held out for the figures. The folder that it writes is checked and used by its path:
    `nbench realism check OUT --fake ... --real ...`. A stopped training goes on with the same command.
    """
    from rich.console import Console

    from nbench.errors import UsageError
    from nbench.report.realism import auc_words, calibration_chart, control_table, own_card
    from nbench.scoring.realism.detector import CONFIG
    from nbench.scoring.realism.own import TrainSettings, read_sides, train_detector
    from nbench.scoring.realism.own_figures import measure_own, write_facts
    from nbench.scoring.realism.pictures import GROUP

    if (out / CONFIG).exists():
        raise UsageError(f"{out} holds a detector already: choose another --out, or delete it.")
    if backbone is not None and size is None:
        from nbench.scoring.realism.backbone import backbone_size

        size = backbone_size(backbone)
    settings = TrainSettings(
        name=name or out.resolve().name,
        size=size or 224,
        mode="resize" if resize else "crop",
        grid=grid,
        backbone=backbone,
        steps=steps,
        batch=batch,
        lr=lr,
        held_out=held_out,
        group=group or GROUP,
        allow_bias=allow_bias,
        seed=seed,
    )
    sides = read_sides(real, fake, settings)
    tell = _tell(quiet=False)
    with contextlib.redirect_stdout(sys.stderr):  # the training's log
        config = train_detector(sides, out, settings, command=settings.command, tell=tell)
    result, bins = measure_own(out, sides, tell=tell)
    write_facts(out, config, sides, settings, result, bins)
    (out / "calibration.svg").write_text(calibration_chart(config.name, {"held-out groups": bins}), encoding="utf-8")
    (out / "README.md").write_text(own_card(config, result, bins), encoding="utf-8")
    Console().print(control_table(result, None))
    click.echo(f"AUC on held-out groups: {auc_words(result.auc)}.")
    click.echo(
        f"Written to {out}. Check it on pictures of the model that you mean to judge: nbench realism check {out}"
    )


def _tell(*, quiet: bool) -> Callable[[str], None]:
    """Says on stderr what is being done."""
    return (lambda text: None) if quiet else (lambda text: click.echo(text, err=True))


def _claimed(claim: float | None, greatest: float) -> str:
    if claim is not None:
        return f"a claimed rise of {claim:.3g}"
    return f"claims above {max(greatest, 0):.3g}" if greatest > 0 else "claims of any rise"
