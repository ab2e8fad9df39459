"""What a detector's check looks like on a terminal, as JSON, on a card and in a chart."""

import io
import json
import math
import xml.etree.ElementTree as ET

from rich.console import Console

from nbench.report.realism import auc_words, calibration_chart, check_json, control_table, own_card
from nbench.scoring.realism.check import ControlEffect, DetectorCheck
from nbench.scoring.realism.detector import DetectorConfig
from nbench.scoring.realism.roc import Auc, Bin
from nbench.scoring.realism.views import View
from nbench.stats.bootstrap import Interval

EFFECTS = (
    ControlEffect("noise 5", Interval(-0.2, -0.3, -0.1, 10, 20), 0.1),
    ControlEffect("blur 2", Interval(0.61, 0.5, 0.7, 10, 20), 0.95),
)
CHECK = DetectorCheck(
    "mine", Auc(0.91, 0.85, 0.96, 40, 20), EFFECTS, {"too small": 2}, ("the size differs",), 1.5, -1.0
)
BINS = [Bin(0.1, 0.2, 5), Bin(0.9, 0.8, 5)]


def test_the_table_names_each_control_and_marks_those_above_the_claim() -> None:
    text = io.StringIO()
    Console(file=text, width=100, force_terminal=True).print(control_table(CHECK, 0.5))
    lines = text.getvalue().splitlines()
    assert "-0.200" in lines[1] and "-0.300 to -0.100" in lines[1] and "\x1b[31m" not in lines[1]
    assert "+0.610" in lines[2] and "95%" in lines[2] and "\x1b[31m" in lines[2]


def test_json_is_plain_and_keeps_what_is_not_a_number_as_null() -> None:
    shown = json.loads(json.dumps(check_json(CHECK, 0.5), allow_nan=False))
    assert shown["verdict"] == "unfit" and shown["controls"]["blur 2"]["rise"] == 0.61
    assert shown["auc"] == {"value": 0.91, "low": 0.85, "high": 0.96, "real": 40, "fake": 20}
    assert shown["failures"] == {"too small": 2} and shown["biases"] == ["the size differs"]
    single = DetectorCheck("mine", Auc(1.0, math.nan, math.nan, 1, 1), EFFECTS)
    assert check_json(single, None)["auc"]["low"] is None


def test_an_auc_that_was_not_measured_says_so() -> None:
    assert auc_words(None) == "not measured: no real pictures"
    assert auc_words(CHECK.auc) == "0.910 (0.850 to 0.960; 40 real, 20 generated)"


def test_the_chart_is_svg_with_a_line_per_set_and_the_honest_one() -> None:
    root = ET.fromstring(calibration_chart("mine & others", {"held-out <groups>": BINS}))
    texts = [element.text for element in root.iter("{http://www.w3.org/2000/svg}text")]
    assert "honest" in texts and "held-out <groups> (10 pictures)" in texts and "mine & others" in texts


def test_the_card_says_what_it_is_and_what_is_wrong_with_it() -> None:
    config = DetectorConfig("mine", "A summary.", View("crop", 64), widths=(4, 8), source="nbench realism train A B")
    card = own_card(config, CHECK, BINS)
    assert "a conv net from scratch" in card and "nbench realism train A B" in card
    assert "0.910 (0.850 to 0.960" in card and "Calibration error there: 0.100" in card
    assert "- The sides differ without looking: the size differs. The figures mean little." in card
    assert "| blur 2 | +0.610 | +0.500 to +0.700 | 95% |" in card
    head = own_card(DetectorConfig("h", "S.", View("crop", 64), architecture="vit_tiny"), CHECK, BINS)
    assert "a linear head on frozen vit_tiny" in head
