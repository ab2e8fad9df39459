"""What a detector of one's own can do, on the groups held out, written beside its weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from nbench.scoring.realism.check import DetectorCheck, check_detector, log_odds
from nbench.scoring.realism.detector import CONFIG, DetectorConfig, load_detector
from nbench.scoring.realism.own import Sides, TrainSettings, facts_of
from nbench.scoring.realism.roc import Bin, calibration_error, reliability


def measure_own(
    folder: Path, sides: Sides, *, tell: Callable[[str], None] = lambda text: None
) -> tuple[DetectorCheck, list[Bin]]:
    """AUC, controls and reliability on the held-out groups; in the bins both sides weigh the same.

    Raises:
        ScorerError: held-out pictures get no score.
    """
    detector = load_detector(folder)
    real = [picture.open() for picture in sides.real_out]
    fake = [picture.open() for picture in sides.fake_out]
    check = check_detector(
        detector,
        fake,
        [picture.group for picture in sides.fake_out],
        real=real,
        real_groups=[picture.group for picture in sides.real_out],
        biases=sides.biases,
        tell=tell,
    )
    count = min(len(real), len(fake))
    odds = np.concatenate([log_odds(detector, images[:count], {}) for images in (real, fake)])
    return check, reliability(odds, np.repeat([1.0, 0.0], count), bins=min(10, max(2, count // 10)))


def write_facts(
    folder: Path, config: DetectorConfig, sides: Sides, settings: TrainSettings, check: DetectorCheck, bins: list[Bin]
) -> None:
    """Put the figures into detector.json."""
    assert check.auc is not None
    figures = {
        "auc": vars(check.auc),
        "controls": {
            effect.name: {"rise": effect.rise.mean, "low": effect.rise.low, "high": effect.rise.high}
            for effect in check.controls
        },
        "calibration": {"error": calibration_error(bins), "bins": [vars(one) for one in bins]},
    }
    text = config.as_json(**facts_of(sides, settings), figures=figures)
    (folder / CONFIG).write_text(text, encoding="utf-8")
