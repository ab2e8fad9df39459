"""One table model for a study: Markdown, LaTeX and CSV say the same, to the digits that each prints."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator
from dataclasses import dataclass

from nbench.report import latex
from nbench.report import page_format as text
from nbench.report.gate import escape


@dataclass(frozen=True)
class Number:
    """A number of a table.

    Attributes:
        value: None or NaN where there is none.
        low, high: of its 95 % interval; None where it has none.
        signed: it is a difference: printed with its sign, and with a star where the interval leaves 0 out.
        mark: printed behind it, such as a dagger.
        digits: significant ones, where there is no interval to tell.
    """

    value: float | None
    low: float | None = None
    high: float | None = None
    signed: bool = False
    mark: str = ""
    digits: int = 3

    @property
    def known(self) -> bool:
        """Whether there is a finite value."""
        return self.value is not None and math.isfinite(self.value)

    @property
    def bounded(self) -> bool:
        """Whether there is an interval with finite ends."""
        return all(end is not None and math.isfinite(end) for end in (self.low, self.high))

    @property
    def apart(self) -> bool:
        """Whether it is a difference whose interval leaves 0 out."""
        if not (self.signed and self.bounded and self.low is not None and self.high is not None):
            return False
        return self.low > 0 or self.high < 0

    def words(self) -> str:
        """As tables print it."""
        if self.value is None or not self.known:
            return text.NONE
        if not self.bounded or self.low is None or self.high is None:
            if not self.signed:
                return text.number(self.value, self.digits) + self.mark
            return text.signed(self.value, text.places(self.value)) + self.mark
        if self.signed:
            decimals = text.places(self.value, self.low, self.high)
            ends = text.interval(self.low, self.high, decimals)
            return f"{text.signed(self.value, decimals)}{'*' * self.apart}{self.mark} ({ends})"
        half = (self.high - self.low) / 2
        decimals = 3 if half <= 0 else min(6, max(0, 1 - math.floor(math.log10(half))))
        low, mean, high = (f"{part:.{decimals}f}".replace("-", "−") for part in (self.low, self.value, self.high))
        return f"{mean}{self.mark} ({low} to {high})"


Cell = str | int | Number | None


@dataclass(frozen=True)
class Column:
    """A column.

    Attributes:
        key: its name in CSV; "KEY_low" and "KEY_high" follow where it has intervals.
        title: its head elsewhere.
        numeric: set to the right.
        intervals: whether its numbers have them.
    """

    key: str
    title: str
    numeric: bool = False
    intervals: bool = False


@dataclass(frozen=True)
class StudyTable:
    """A table.

    Attributes:
        name: of its files.
        title: in a few words.
        note: what its figures are, in sentences.
        columns: of it.
        rows: of cells.
        rules: rows that a rule stands before, where a new group begins.
    """

    name: str
    title: str
    note: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    rules: tuple[int, ...] = ()

    def markdown(self) -> str:
        """As Markdown, with title and note."""
        heads = [escape(column.title) for column in self.columns]
        lines = [f"## {escape(self.title)}", "", escape(self.note), ""]
        lines += ["| " + " | ".join(heads) + " |"]
        lines += ["|" + "|".join("---:" if column.numeric else "---" for column in self.columns) + "|"]
        lines += ["| " + " | ".join(_markdown(cell) for cell in row) + " |" for row in self.rows]
        return "\n".join(lines) + "\n"

    def latex(self) -> str:
        """As a LaTeX table of booktabs."""
        return latex.booktabs(
            [latex.escape(column.title) for column in self.columns],
            [[_latex(cell) for cell in row] for row in self.rows],
            numeric=[column.numeric for column in self.columns],
            rules=self.rules,
            caption=latex.escape(f"{self.title}. {self.note}"),
            label=f"tab:{self.name}",
        )

    def csv(self) -> str:
        """As CSV: numbers in full, an empty field where there is none."""
        buffer = io.StringIO()
        writer = csv.writer(buffer, lineterminator="\n")
        writer.writerow([name for column in self.columns for name in _names(column)])
        for row in self.rows:
            writer.writerow([field for column, cell in zip(self.columns, row, strict=True)
                             for field in _fields(column, cell)])  # fmt: skip
        return buffer.getvalue()


def words(cell: Cell) -> str:
    """A cell as text."""
    if cell is None:
        return text.NONE
    return cell.words() if isinstance(cell, Number) else str(cell)


def _markdown(cell: Cell) -> str:
    shown = escape(words(cell))
    return f"**{shown}**" if isinstance(cell, Number) and cell.apart else shown


def _latex(cell: Cell) -> str:
    shown = latex.escape(words(cell))
    return rf"\textbf{{{shown}}}" if isinstance(cell, Number) and cell.apart else shown


def _names(column: Column) -> Iterator[str]:
    yield column.key
    if column.intervals:
        yield f"{column.key}_low"
        yield f"{column.key}_high"


def _fields(column: Column, cell: Cell) -> Iterator[str]:
    if isinstance(cell, Number):
        parts = (cell.value, cell.low, cell.high) if column.intervals else (cell.value,)
        yield from ("" if part is None or not math.isfinite(part) else f"{part:.6g}" for part in parts)
        return
    yield _guarded("" if cell is None else str(cell))
    if column.intervals:
        yield from ("", "")


def _guarded(field: str) -> str:
    """Text that a spreadsheet does not take for a formula."""
    return f"'{field}" if field.startswith(("=", "+", "-", "@", "\t", "\r")) else field
