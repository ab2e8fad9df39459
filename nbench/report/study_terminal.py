"""The claims of a study for the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.table import Table

from nbench.report.study_words import effect_words

if TYPE_CHECKING:
    from nbench.study.claims.claim import Claim


def claims_lines(claims: Sequence[Claim]) -> Table:
    """A line per claim: number, statement, verdict, pooled effect with its 95 % interval."""
    table = Table(title="claims", title_justify="left", box=None, pad_edge=False)
    for title in ("", "claim", "verdict", "effect (95 % interval)"):
        table.add_column(title, no_wrap=title == "verdict")
    for one in claims:
        table.add_row(str(one.number), one.statement, one.verdict, effect_words(one.effect))
    return table
