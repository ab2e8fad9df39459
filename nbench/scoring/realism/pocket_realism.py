"""pocket-realism: composed scene or generated picture? A small conv net for the pocket world.

It was trained on composed scenes, as drawn and after the pocket autoencoder, against what pocket generators drew at
several step counts and guidances; pocket-flux was left out. Its card has figures by step count and its blind spots.
"""

from __future__ import annotations

from pathlib import Path

from nbench.scoring.realism.detector import Detector, load_detector

FOLDER = Path(__file__).parents[2] / "pocket" / "weights" / "pocket-realism"


def create(device: str) -> Detector:
    """Entry point of the scorer."""
    return load_detector(FOLDER, device, name="pocket-realism")
