"""Text and tables for LaTeX, in the manner of booktabs."""

from __future__ import annotations

from collections.abc import Sequence

_ESCAPED = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "%": r"\%", "_": r"\_",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", '"': "''", "−": "$-$", "–": "--", "×": r"$\times$", "↑": r"$\uparrow$",
    "↓": r"$\downarrow$", "±": r"$\pm$", "†": r"\textdagger{}", "∞": r"$\infty$", "λ": r"$\lambda$",
}  # fmt: skip


def escape(text: str) -> str:
    """Text as LaTeX prints it, on one line."""
    return "".join(_ESCAPED.get(char, char) for char in " ".join(text.split()))


def booktabs(
    heads: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    numeric: Sequence[bool],
    rules: Sequence[int] = (),
    caption: str = "",
    label: str = "",
) -> str:
    """A table; it needs `booktabs`, and `graphicx` where it is wide.

    Args:
        heads: of the columns, LaTeX.
        rows: cells, LaTeX.
        numeric: whether a column is set to the right.
        rules: rows that a thin rule stands before.
        caption: of the table, LaTeX; without one it does not float.
        label: to refer to it by.

    Raises:
        ValueError: a row has another length than the head.
    """
    columns = "".join("r" if right else "l" for right in numeric)
    lines = [rf"\begin{{tabular}}{{{columns}}}", r"\toprule", " & ".join(heads) + r" \\", r"\midrule"]
    for number, row in enumerate(rows):
        if len(row) != len(heads):
            raise ValueError(f"row {number} has {len(row)} cells for {len(heads)} columns")
        if number in rules and number:
            lines.append(r"\midrule")
        # A row that begins with a bracket would be an option of the \\ before it.
        lines.append("{}" * row[0].startswith(("[", "*")) + " & ".join(row) + r" \\")
    lines += [r"\bottomrule", r"\end{tabular}"]
    if not caption:
        return "\n".join(lines) + "\n"
    head = [r"\begin{table}", r"\centering", rf"\caption{{{caption}}}"]
    head += [rf"\label{{{label}}}"] if label else []
    return "\n".join([*head, r"\small", r"\setlength{\tabcolsep}{3pt}", *lines, r"\end{table}"]) + "\n"
