"""Strips of pictures: the same prompt and seed, a row per arm, a column per step count; prompts are not chosen."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from nbench.report.study_drawing import Drawing
from nbench.report.study_values import View
from nbench.study.plan import BASE

if TYPE_CHECKING:
    from nbench.runs.images import ImageStore
    from nbench.study.evidence import Evidence

_TILE, _GAP, _LABEL, _BETWEEN, _SIDE = 82, 3, 84, 18, 12
_TEXT, _STEPS = 18, 16  # heights of the lines above a block
_MOST_STEPS = 5


def strip_rows(view: View, evidence: Evidence) -> list[tuple[str, str]]:
    """Label and checkpoint of a strip's rows: base, unguarded, guarded; of an arm the first training seed."""
    claims = evidence.plan.study.claims
    arms = [arm for arm in (claims.unguarded, claims.guarded, claims.ratio_guarded) if arm in view.arms]
    return [(BASE, BASE), *((arm, view.present(arm)[0].checkpoint) for arm in arms)]


def strip_steps(view: View, evidence: Evidence) -> tuple[int, ...]:
    """Step counts of a strip: all, or where there are many the fewest, the most, and some between."""
    steps = [count for count in evidence.plan.study.evaluation.steps if count in view.cube.steps] or view.cube.steps
    if len(steps) <= _MOST_STEPS:
        return tuple(steps)
    return tuple(steps[round(i * (len(steps) - 1) / (_MOST_STEPS - 1))] for i in range(_MOST_STEPS))


def strip_size(rows: int, steps: int, prompts: int, columns: int = 2) -> tuple[int, int]:
    """Width and height of a strip."""
    across = min(prompts, columns)
    width = _SIDE + _LABEL + across * (steps * (_TILE + _GAP)) + (across - 1) * _BETWEEN + _SIDE
    return width, -(-prompts // columns) * _block_height(rows)


def draw_strip(
    made: Drawing, view: View, images: ImageStore, rows: Sequence[tuple[str, str]], steps: Sequence[int],
    *, prompts: int, top: int = 0, left: int = 0, columns: int = 2,
) -> None:  # fmt: skip
    """Draw the first prompts of the run into `made`, seed index 0, two blocks side by side.

    Args:
        made: what to draw into.
        view: of the run.
        images: where its pictures are.
        rows: label and checkpoint of each.
        steps: step counts.
        prompts: how many.
        top: of the strip.
        left: of the strip.
        columns: blocks side by side.
    """
    cube = view.cube
    for number, prompt in enumerate(cube.prompts[:prompts]):
        column, line = number % columns, number // columns
        x0 = left + _SIDE + _LABEL + column * (len(steps) * (_TILE + _GAP) + _BETWEEN)
        y0 = top + line * _block_height(len(rows))
        longest = len(steps) * (_TILE + _GAP) // 6
        words = cube.texts[prompt]
        made.text(x0, y0 + 12, words if len(words) <= longest else f"{words[: longest - 3]}...", ink="ink")
        for j, count in enumerate(steps):
            name = f"{count} step{'' if count == 1 else 's'}"
            made.text(x0 + j * (_TILE + _GAP) + _TILE / 2, y0 + _TEXT + 11, name, anchor="middle")
        for i, (label, checkpoint) in enumerate(rows):
            y = y0 + _TEXT + _STEPS + i * (_TILE + _GAP)
            if column == 0:
                made.text(x0 - 8, y + _TILE / 2 + 4, label, ink="ink", anchor="end")
            for j, count in enumerate(steps):
                x = x0 + j * (_TILE + _GAP)
                key = cube.keys[cube.checkpoints.index(checkpoint), cube.steps.index(count), number, 0]
                picture = None if key is None else images.read(key)
                if picture is None:
                    made.box(x, y, _TILE, _TILE, "soft")
                    made.text(x + _TILE / 2, y + _TILE / 2 + 4, "no picture", anchor="middle", size=10)
                    continue
                scale = _TILE / max(picture.size)
                size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
                made.picture(x + (_TILE - size[0]) / 2, y + (_TILE - size[1]) / 2, picture, size)


def _block_height(rows: int) -> int:
    return _TEXT + _STEPS + rows * (_TILE + _GAP) + 12
