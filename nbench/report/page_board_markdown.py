"""A board as Markdown, for a repository's pages: the same figures, without pictures."""

from __future__ import annotations

import math
from collections.abc import Sequence

from nbench.leaderboard.board import Board
from nbench.leaderboard.figures import Figures, View
from nbench.leaderboard.rows import FORMULAS, card_file
from nbench.report import page_format as text
from nbench.report.gate import escape
from nbench.report.page_board import listed, note_of, title_of
from nbench.stats.curves import Estimate
from nbench.stats.paired import PairedDifference


def board_markdown(board: Board) -> str:
    """The whole board."""
    definition = board.definition
    lines = [f"# {escape(definition.title)}", ""]
    if definition.label:
        lines += [f"> **{escape(definition.label)}**", ""]
    if definition.description:
        lines += [escape(definition.description), ""]
    lines += [
        f"{len(board.standings)} checkpoints, {board.prompts} prompts × {board.seeds} seeds at "
        f"{listed(definition.steps)} steps; few is {definition.few_steps}, full is {definition.full_steps}; paired "
        f"with {escape(board.standings[0].name)}. Curves, pictures and cards: [index.html](index.html). Every figure: "
        "[board.json](board.json), board.parquet.",
        "",
    ]
    for view in board.views:
        lines += _view(board, view)
    lines += [
        "Intervals are 95 %. A new group begins with the first checkpoint that is shown to be worse than the group's "
        "first. † trained on a measure that the figure rests on. ‡ its card differs from the base's where the board "
        "allows it.",
        "",
        "## How it is worked out",
        "",
        *(f"* **{escape(name)}**: {escape(body)}." for name, body in FORMULAS.items()),
        "* **sigma**: " + ", ".join(f"{escape(name)} {text.number(value, 4)}" for name, value in board.sigmas.items()),
        "",
        "## Checkpoints",
        "",
        "| checkpoint | run | card of the run | method | guard | trained on |",
        "|---|---|---|---|---|---|",
    ]
    for one in board.standings:
        about = one.about
        cells = (one.name, f"{one.run}: {one.checkpoint}", text.short(one.card_hash), about.method, about.guard,
                 ", ".join(about.trained_on))  # fmt: skip
        lines.append("| " + " | ".join(map(escape, cells)) + " |")
    lines += [
        "",
        f"Rebuild: `nbench leaderboard build {definition.name}.yaml --out FOLDER`; the same runs and submissions give "
        "the same bytes.",
    ]
    return "\n".join(lines) + "\n"


def _view(board: Board, view: View) -> list[str]:
    few, full = board.definition.few_steps, board.definition.full_steps
    heads = ["rank", "group", "checkpoint", "area", f"at {few} steps", f"at {full} steps", "worst drop",
             "steps to match", *(["retention"] if view.true_zero else []), "links"]  # fmt: skip
    lines = [f"## {escape(title_of(view)).capitalize()}", "", escape(note_of(view)), ""]
    lines += ["| " + " | ".join(heads) + " |", "|---:|---:|---|" + "---:|" * (len(heads) - 4) + "---|"]
    own = board.figures[view.name]
    decimals = text.places(*_bounds(own))
    for i in board.ranked(view.name):
        one, figure = board.standings[i], own[i]
        mark = "†" if set(one.trained_on) & set(view.measures) else ""
        mark += "‡" if one.allowed else ""
        rank = figure.rank
        ranks = f"{rank.rank} ({rank.low}–{rank.high})" if rank.low != rank.high else str(rank.rank)
        cells = [
            ranks,
            str(rank.group),
            escape(one.name) + mark,
            *(_paired(found, decimals) for found in (figure.area, figure.few, figure.full)),
            _worst(figure.worst, decimals),
            _match(figure.match),
            *([_plain(figure.retention)] if view.true_zero else []),
            f"[card]({card_file(one.name)}) · [run](#checkpoints) · [protocol](protocol.json)",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return [*lines, ""]


def _bounds(own: Sequence[Figures]) -> list[float]:
    return [bound for figure in own if figure.area for bound in (figure.area.mean, figure.area.low, figure.area.high)]


def _paired(found: PairedDifference | None, decimals: int) -> str:
    if found is None:
        return "base"
    return f"{text.signed(found.mean, decimals)} ({text.interval(found.low, found.high, decimals)})"


def _worst(found: Estimate | None, decimals: int) -> str:
    if found is None:
        return "base"
    value = text.signed(found.value, decimals).removeprefix("+")
    return f"{value} ({text.interval(found.low, found.high, decimals)})"


def _match(found: Estimate | None) -> str:
    if found is None:
        return text.NONE
    interval = "no interval" if math.isnan(found.low) else f"{text.steps(found.low)} to {text.steps(found.high)}"
    return f"{text.steps(found.value)} ({interval})"


def _plain(found: Estimate | None) -> str:
    if found is None or math.isnan(found.low):
        return text.NONE
    return f"{found.value:.2f} ({found.low:.2f} to {found.high:.2f})"
