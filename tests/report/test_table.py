import io
import math

from rich.console import Console

from nbench.report.summary import Column, Line, Summary, Value
from nbench.report.table import summary_tables
from nbench.stats.bootstrap import Interval


def rendered(summary: Summary, width: int = 120, *, everything: bool = False) -> str:
    console = Console(file=io.StringIO(), width=width)
    console.print(summary_tables(summary, everything=everything))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def value(mean: float, half: float, coverage: float = 1.0) -> Value:
    return Value(Interval(mean, mean - half, mean + half, 12, 24), coverage)


def line(checkpoint: str, steps: int, shown: Value, **fields: object) -> Line:
    settings: dict[str, object] = {"cells": 24, "pictures": 24, "norm": 1.25, "ratio": None, "speed": 3.5, **fields}
    return Line(checkpoint=checkpoint, steps=steps, values={("s", "s"): shown}, **settings)  # type: ignore[arg-type]


COLUMN = Column("s", "s", "higher", "reward")


def test_rows_are_checkpoint_by_steps_with_mean_and_interval() -> None:
    text = rendered(Summary((COLUMN,), (line("base", 4, value(0.3124, 0.0131)), line("nft", 4, value(0.5, 0.2))), ()))
    assert "s ↑" in text
    assert next(part for part in text.splitlines() if "base" in part).split() == [
        "base", "4", "0.312", "±0.013", "1.2500", "3.50",
    ]  # fmt: skip
    assert "0.50 ±0.20" in text
    assert "ratio" not in text and "failures" not in text


def test_coverage_is_shown_when_it_is_not_whole_and_never_rounded_up() -> None:
    text = rendered(Summary((COLUMN,), (line("base", 4, value(0.5, 0.1, 0.9999), pictures=23),), ((1, "no picture"),)))
    assert "of 99.9 %" in text
    assert "23/24" in text
    assert "no picture" in text


def test_no_value_is_words_and_not_a_number() -> None:
    text = rendered(Summary((COLUMN,), (line("base", 4, Value(None, 0.0), norm=math.nan, pictures=0, speed=None),), ()))
    assert "no value" in text and "nan" not in text and "cached" in text


def test_one_prompt_has_a_mean_and_no_interval() -> None:
    shown = Value(Interval(0.5, math.nan, math.nan, 1, 4), 1.0)
    assert "0.5 ± ?" in rendered(Summary((COLUMN,), (line("base", 4, shown),), ()))


def test_statistics_stand_in_a_table_of_their_own() -> None:
    columns = (COLUMN, Column("image-stats", "saturation", "none", "statistics"))
    text = rendered(Summary(columns, (line("base", 4, value(0.5, 0.1), ratio=1.02),), ()))
    assert text.index("s ↑") < text.index("1.0200") < text.index("saturation")
    assert "1.0200" in text


def test_a_checkpoint_named_like_markup_is_printed_as_it_is() -> None:
    assert "[red]x" in rendered(Summary((COLUMN,), (line("[red]x", 4, value(0.5, 0.1)),), ()))


def test_a_scorer_of_several_metrics_is_shown_by_its_first_and_whole_on_demand() -> None:
    metrics = (("size", "none"), ("first", "higher"), ("second", "lower"))
    columns = (*(Column("many", *metric, "reward", alone=False) for metric in metrics), COLUMN)
    summary = Summary(columns, (), ())
    short, whole = (rendered(summary, 200, everything=everything) for everything in (False, True))
    assert "first" in short and "s ↑" in short and "second" not in short and "size" not in short
    assert all(name in whole for name in ("first", "second", "size", "s ↑"))
