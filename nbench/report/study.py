"""What a study comes to, as files: tables, figures, pictures, a page, and the claims as Markdown.

    OUT/index.html          everything on one page, without network
    OUT/claims.md           every claim with verdict, effect, figure and command
    OUT/tables/NAME.md .tex .csv
    OUT/figures/NAME.svg    first.svg and first.png: the picture for a README
    OUT/pictures/GROUP.jpg  the same prompts and seed, by arm and step count

The same evidence gives the same bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from nbench.report.study_drawing import Drawing, jpeg
from nbench.report.study_facts import StudyFacts
from nbench.report.study_figures import poolable, pooled_figure, study_figures
from nbench.report.study_forest import draw_forest
from nbench.report.study_page import Strip, study_page
from nbench.report.study_panels import draw_legend, draw_panels, legend_rows, panels_size
from nbench.report.study_strip import draw_strip, strip_rows, strip_size, strip_steps
from nbench.report.study_tables import study_tables
from nbench.report.study_values import View, make_views
from nbench.report.study_words import claims_markdown
from nbench.runs.files import store_errors, write_atomic
from nbench.runs.images import ImageStore

if TYPE_CHECKING:
    from nbench.study.claims.claim import Claim
    from nbench.study.evidence import Evidence

_PROMPTS = 4  # of a group's strip
_FIRST_PROMPTS = 2  # of the first picture
_HEAD, _LEGEND = 34, 34


def write_results(
    evidence: Evidence,
    claims: Sequence[Claim],
    facts: StudyFacts,
    folder: Path,
    *,
    images: Path | None = None,
) -> list[Path]:
    """Write everything that there is evidence for; figures and pictures without any are left out.

    Args:
        evidence: of the study.
        claims: in order.
        facts: of how it was run.
        folder: of the results, made when it does not exist.
        images: root of the store that holds the pictures; None for a page without pictures.

    Returns:
        The files, in the order of writing.

    Raises:
        StoreError: the disk refuses, or a picture cannot be read.
    """
    views = make_views(evidence)
    store = None if images is None else ImageStore(images / "images")
    tables, figures = study_tables(evidence, claims), study_figures(evidence)
    drawings = {name: figure.draw() for name, figure in figures.items()}
    if any(claim.effect is not None or any(part.effect for part in claim.parts) for claim in claims):
        drawings["forest"] = draw_forest(claims)
    first = first_picture(evidence, views, store)
    strips = [] if store is None else _strips(evidence, views, store)

    files: dict[str, bytes] = {}
    for name, table in tables.items():
        for ending, content in (("md", table.markdown()), ("tex", table.latex()), ("csv", table.csv())):
            files[f"tables/{name}.{ending}"] = content.encode()
    for name, drawing in drawings.items():
        files[f"figures/{name}.svg"] = drawing.svg().encode()
    if first is not None:
        files["figures/first.svg"] = first.svg().encode()
        files["figures/first.png"] = first.png()
    for strip in strips:
        files[f"pictures/{strip.name}.jpg"] = strip.jpeg
    files["claims.md"] = claims_markdown(evidence, claims, facts, drawings).encode()
    page = study_page(evidence, claims, facts, tables=tables, figures=figures, strips=strips)
    files["index.html"] = page.encode()
    return [_write(folder / name, content) for name, content in files.items()]


def _write(path: Path, content: bytes) -> Path:
    with store_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, content)
    return path


def first_picture(evidence: Evidence, views: Mapping[str, View], store: ImageStore | None) -> Drawing | None:
    """Quality, realism and velocity norm against steps, above a strip of the first group; None without runs.

    The group is the first of the grid that has both arms, and the prompts are the set's first: none is chosen.
    """
    figure = pooled_figure(evidence, views)
    if all(panel.empty for panel in figure.panels):
        return None
    width, height = panels_size(figure.rows)
    view = poolable(evidence, list(views.values()))[0]
    rows, steps = strip_rows(view, evidence), strip_steps(view, evidence)
    prompts = min(_FIRST_PROMPTS, len(view.cube.prompts))
    strip_width, strip_height = strip_size(len(rows), len(steps), prompts)
    if store is None or not _has_pictures(view, store):
        strip_width = strip_height = 0
    whole = max(width, strip_width)
    made = Drawing(whole, _HEAD + height + _LEGEND + strip_height, figure.title)
    made.text(12, 22, figure.title, ink="ink", size=14, bold=True)
    draw_panels(made, figure.rows, _HEAD)
    draw_legend(made, legend_rows(figure.rows, width), _HEAD + height)
    if strip_height and store is not None:
        draw_strip(made, view, store, rows, steps, prompts=prompts, top=_HEAD + height + _LEGEND,
                   left=(whole - strip_width) // 2)  # fmt: skip
    return made


def _has_pictures(view: View, store: ImageStore) -> bool:
    return any(key is not None and store.path(str(key)).is_file() for key in view.cube.keys.flat)


def _strips(evidence: Evidence, views: Mapping[str, View], store: ImageStore) -> list[Strip]:
    found = []
    for name, view in views.items():
        if not _has_pictures(view, store):
            continue
        rows, steps = strip_rows(view, evidence), strip_steps(view, evidence)
        prompts = min(_PROMPTS, len(view.cube.prompts))
        made = Drawing(*strip_size(len(rows), len(steps), prompts), name)
        draw_strip(made, view, store, rows, steps, prompts=prompts)
        texts = "; ".join(view.cube.texts[prompt] for prompt in view.cube.prompts[:prompts])
        alt = f"{', '.join(label for label, _ in rows)} at {', '.join(map(str, steps))} steps: {texts}"
        found.append(Strip(name, jpeg(made.image(1)), made.width, made.height, alt))
    return found
