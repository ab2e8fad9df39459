"""A gate's result as one HTML file for people: no script, no request, whatever the policy and the prompts hold."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape

from nbench.gates.evaluate import GateResult
from nbench.report.gate import HEADINGS, row_cells, sentence

_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
_STYLE = """
:root { color-scheme: light dark; --line: #8886; --pass: #1a7f37; --breach: #cf222e; --open: #9a6700 }
@media (prefers-color-scheme: dark) { :root { --pass: #3fb950; --breach: #ff7b72; --open: #d29922 } }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem }
.wide { overflow-x: auto }
table { border-collapse: collapse; font-variant-numeric: tabular-nums }
th, td { padding: .25rem .7rem; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap }
th:nth-child(-n+2), td:nth-child(-n+2), th:last-child, td:last-child { text-align: left }
.PASS { color: var(--pass) } .BREACH { color: var(--breach) } .INCONCLUSIVE { color: var(--open) }
h1 .verdict, td.verdict { font-weight: 600 }
figure { margin: 0; background: #fff; color: #111; padding: .5rem; width: max-content }
.warning { border-left: 4px solid var(--breach); padding-left: .8rem }
"""


def gate_html(result: GateResult, curves: str, pairs: bytes, files: Sequence[str], note: str = "") -> str:
    """The page.

    Args:
        result: of the gate.
        curves: SVG of the comparison's curves; "" for none.
        pairs: PNG of the worst pairs.
        files: names of the files beside the page.
        note: a further sentence on how to read the figures.
    """
    title = f"gate {result.policy.name}: {result.candidate} against {result.base}"
    parts = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">',
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body>",
        f'<h1><span class="verdict {result.verdict}">{result.verdict}</span> {escape(title)}</h1>',
        f"<p>{escape(sentence(result))} {result.prompts} prompts x {result.seeds} seeds.</p>",
    ]
    if result.allowed:
        differences = escape("; ".join(map(str, result.allowed)))
        parts.append(f'<p class="warning"><b>Not like with like</b>, allowed by name: {differences}</p>')
    if note:
        parts.append(f"<p>{escape(note)}</p>")
    parts += [*_table(result), *_reasons(result)]
    if curves:
        parts += ['<h2>Curves</h2><div class="wide"><figure>', curves, "</figure></div>"]
    image = base64.b64encode(pairs).decode()
    parts += [
        "<h2>Pairs that lost most</h2>",
        '<div class="wide"><img alt="base and candidate side by side, a row for each of the pairs that lost most"'
        f' src="data:image/png;base64,{image}"></div>',
        "<h2>Evidence</h2><ul>",
        *(f'<li><a href="{escape(name)}">{escape(name)}</a></li>' for name in files),
        "</ul></body></html>",
    ]
    return "\n".join(parts) + "\n"


def _table(result: GateResult) -> list[str]:
    heads = "".join(f'<th scope="col">{escape(heading)}</th>' for heading in HEADINGS)
    lines = [f'<div class="wide"><table><thead><tr>{heads}</tr></thead><tbody>']
    for row in result.rows:
        *cells, verdict = row_cells(row)
        shown = "".join(f"<td>{escape(cell)}</td>" for cell in cells)
        lines.append(f'<tr>{shown}<td class="verdict {verdict}">{verdict}</td></tr>')
    return [*lines, "</tbody></table></div>"]


def _reasons(result: GateResult) -> list[str]:
    told = [f"<li>{escape(f'{row.place}: {row.reason}.')}</li>" for row in result.rows if row.reason]
    return ["<ul>", *told, "</ul>"] if told else []
