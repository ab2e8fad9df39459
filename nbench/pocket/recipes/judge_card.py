"""figures.json and README.md of pocket-judge, from what `judge_figures` measured."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nbench.pocket.recipes.cards import package_list


def write_card(folder: Path, figures: Mapping[str, Any], *, command: str, log: Path, parameters: int) -> None:
    """Write figures.json and README.md into the exported folder.

    Args:
        folder: of the model.
        figures: of `measure`.
        command: that trained it.
        log: log.jsonl of the training.
        parameters: how many weights.
    """
    last = json.loads(log.read_text().splitlines()[-1])
    (folder / "figures.json").write_text(json.dumps(figures, indent=1) + "\n")
    kinds = _table(
        ("kind", "Spearman", "in one picture", "AUC, least to most", "pairs right", "same after swap", "order bias"),
        [
            (
                f"{kind} (never taught)" if row["held_out"] else kind,
                f"{row['spearman']:.3f}",
                f"{row['spearman_in_picture']:.3f}",
                " ".join(f"{value:.2f}" for value in row["auc_of_rating"]),
                f"{100 * row['pairs_right']:.1f} %",
                f"{100 * row['swap_consistency']:.1f} %",
                f"{row['order_bias']:+.3f}",
            )
            for kind, row in figures["kinds"].items()
        ],
    )
    items = _table(
        ("item", "AUC against clean", "AUC against other defects", "mean with", "mean without"),
        [(name, *(f"{value:.3f}" for value in row.values())) for name, row in figures["items"].items()],
    )
    concepts = list(figures["alignment"])
    facts = list(next(iter(figures["alignment"].values())))
    alignment = _table(
        ("figure", *concepts),
        [(fact, *(f"{figures['alignment'][one][fact]:.3f}" for one in concepts)) for fact in facts],
    )
    held_out = textwrap.fill(", ".join(figures["held_out_concepts"]), 110, subsequent_indent="  ")
    (folder / "README.md").write_text(
        f"""# pocket-judge

A vision-language model of the class Qwen3-VL that judges 64x64 pocket pictures: it rates quality in five words, answers
yes or no about six defects, says which of two pictures is better, and whether a caption fits. It understands the
questions of `nbench.pocket.recipes.judge_wording` word for word, and little else. It is a small instrument to test a
whole pipeline with; of real pictures it knows nothing.

- Data: scenes composed by `nbench.pocket.recipes.data` from emoji pictures (MIT licence), drawn during training and
  spoiled by known amounts (`nbench.pocket.recipes.judge_data`). No generated picture was used.
- Held out: the concepts of the bundled scenes, the kinds {" and ".join(figures["held_out_kinds"])}, and the amounts
  that are measured at.
- Concepts held out:
  {held_out}.
- Recipe: `{command}`
- Steps: {last["step"] + 1}. Training time: {last["seconds"] / 60:.1f} minutes, one CPU thread.
- Parameters: {parameters:,}, stored in fp16; compute in fp32.
- Licence of the weights: MIT, as the pictures.

Source packages:

{package_list()}

## Held-out figures

On {figures["scenes"]} scenes of held-out concepts, each clean and at five amounts of every kind
(`python -m nbench.pocket.recipes.judge_figures`). The rating is the expectation over the five words, 0 to 4; clean
pictures have a mean of {figures["clean_rating"]:.2f}. The five words have {figures["least_label_mass"]:.4f} of the
probability at least. Kinds without an item of their own were a tenth of what was taught: do not rely on it for damaged
structure (melt, ghost, shuffle), and look at its row before relying on it for any kind.

Ratings and pairs. Spearman is of the amount (clean included) with the fall of the rating, over all pictures together,
and in one picture, averaged; AUC is of clean pictures rated above spoiled ones; pairs are the same scene two levels
apart (clean is a level), asked in both orders; order bias is the mean probability of what stands first, less 0.5.

{kinds}

Items: the area under the ROC curve of P(yes), all five amounts, mild ones included.

{items}

Captions that name every fact, true and with one fact changed. The nouns of held-out concepts are unknown words to the
model, so a wrong one is not noticed there, and should not be.

{alignment}
"""
    )


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
