import io
import math
import re
from dataclasses import replace

from rich.console import Console

from nbench.normguard.evaluation import Comparison, Evaluation, NormRatio
from nbench.report.training import evaluation_table
from nbench.stats.bootstrap import Interval


def rendered(*entries: Comparison | NormRatio, color: bool = False) -> str:
    comparisons = tuple(entry for entry in entries if isinstance(entry, Comparison))
    norms = tuple(entry for entry in entries if isinstance(entry, NormRatio))
    console = Console(file=io.StringIO(), width=140, force_terminal=color, color_system="truecolor" if color else None)
    console.print(evaluation_table(Evaluation("epoch-0010", "base", 12, 2, comparisons, norms)))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def words(text: str, of: str) -> list[str]:
    return next(line for line in text.splitlines() if of in line).split()


def comparison(steps: int, mean: float, half: float, metric: str = "reward", **fields: object) -> Comparison:
    settings: dict[str, object] = {
        "scorer": "reward", "orientation": "higher", "base": 0.5, "mean": 0.5 + mean,
        "difference": Interval(mean, mean - half, mean + half, 12, 24), "coverage": 1.0, **fields,
    }  # fmt: skip
    return Comparison("policy", steps, metric=metric, **settings)  # type: ignore[arg-type]


def ratio(low: float, high: float, coverage: float = 1.0) -> NormRatio:
    return NormRatio("policy", 4, Interval((low + high) / 2, low, high, 12, 24), coverage)


def test_a_row_has_both_means_the_difference_and_its_interval() -> None:
    text = rendered(comparison(4, 0.0312, 0.0131), ratio(1.02, 1.04))
    assert "epoch-0010 against base: 12 held-out prompts x 2 seeds" in text
    assert words(text, "reward ↑") == [
        "policy", "reward", "↑", "4", "0.500", "0.531", "+0.031", "[+0.018,", "+0.044]",
    ]  # fmt: skip
    assert words(text, "velocity-norm") == [
        "velocity-norm", "ratio", "4", "1", "1.030", "+0.030", "[+0.020,", "+0.040]",
    ]  # fmt: skip
    assert "coverage" not in text


def test_step_counts_of_a_metric_stand_together() -> None:
    text = rendered(*(comparison(steps, 0.1, 0.01, metric) for steps in (4, 8) for metric in ("reward", "other")))
    assert text.index("reward ↑") < text.index("reward other ↑")
    numbers = [line.split() for line in text.splitlines() if "+0.100" in line]
    assert [next(word for word in line if word in ("4", "8")) for line in numbers] == ["4", "8", "4", "8"]


def test_only_a_difference_whose_interval_leaves_out_zero_is_bold() -> None:
    def is_bold(number: str, text: str) -> bool:
        assert number in text
        return re.search(rf"\x1b\[1m *{re.escape(number)}\x1b", text) is not None

    assert is_bold("+0.20", rendered(comparison(4, 0.2, 0.1), color=True))
    assert is_bold("-0.20", rendered(comparison(4, -0.2, 0.1), color=True))
    assert not is_bold("+0.20", rendered(comparison(4, 0.2, 0.3), color=True))


def test_coverage_is_shown_when_it_is_not_whole_and_never_rounded_up() -> None:
    text = rendered(comparison(4, 0.1, 0.01, coverage=0.9999), ratio(1.0, 1.1))
    assert "coverage" in text and "99.9 %" in text


def test_no_pair_is_words_and_not_a_number() -> None:
    broken = replace(comparison(4, 0.1, 0.01), base=None, mean=None, difference=None, coverage=0.0)
    text = rendered(broken, NormRatio("policy", 4, None, 0.0))
    assert "no pair" in text and "nan" not in text and "0 %" in text
    assert words(text, "velocity-norm")[3:6] == ["1", "no", "value"]


def test_one_prompt_has_a_difference_and_no_interval() -> None:
    text = rendered(comparison(4, 0.1, 0.0, difference=Interval(0.1, math.nan, math.nan, 1, 2)))
    assert "+0.1000" in text and "unknown (one prompt)" in text and "nan" not in text


def test_nothing_but_a_base_is_a_table_without_rows() -> None:
    assert "difference" in rendered()


def test_a_checkpoint_named_like_markup_is_printed_as_it_is() -> None:
    assert "[red]x" in rendered(NormRatio("[red]x", 4, None, 0.0))
