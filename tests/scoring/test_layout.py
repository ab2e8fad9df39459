"""A checkpoint must hold exactly what its network has."""

from pathlib import Path

import pytest
import torch

from nbench.errors import ScorerError
from nbench.scoring.layout import check_layout

WANTED = {f"layer.{i}.weight": torch.empty(2, 3, device="meta") for i in range(5)}
PATH = Path("folder/model.safetensors")


def found(**changes: torch.Tensor | None) -> dict[str, torch.Tensor]:
    both = {name: torch.zeros(2, 3) for name in WANTED} | changes
    return {name: tensor for name, tensor in both.items() if tensor is not None}


def test_the_same_names_and_shapes_pass_whatever_the_values() -> None:
    check_layout(PATH, found(), WANTED)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layer.3.weight": None}, r"lacks 1 \(layer\.3\.weight\)"),
        ({f"layer.{i}.weight": None for i in range(4)}, r"lacks 4 \(layer\.0\S+, layer\.1\S+, layer\.2\S+, \.\.\.\)"),
        ({"head.bias": torch.zeros(1)}, r"has beyond them 1 \(head\.bias\)"),
        ({"layer.0.weight": torch.zeros(3, 2)}, r"layer\.0\.weight is \(3, 2\) instead of \(2, 3\)"),
        ({"layer.0.weight": None, "x": torch.zeros(1)}, r"lacks 1 \(layer\.0\.weight\); it has beyond them 1 \(x\)"),
    ],
)
def test_a_difference_is_refused_and_named(changes: dict[str, torch.Tensor | None], message: str) -> None:
    with pytest.raises(ScorerError, match=rf"^folder/model\.safetensors .* 5 tensors it .*{message}"):
        check_layout(PATH, found(**changes), WANTED)


def test_tensors_known_to_be_of_no_use_may_be_there_or_not() -> None:
    extra = {"lm_head.weight": torch.zeros(1)}
    check_layout(PATH, found(**extra), WANTED, unused=("lm_head.",))
    check_layout(PATH, found(), WANTED, unused=("lm_head.",))
    with pytest.raises(ScorerError, match=r"lm_head"):
        check_layout(PATH, found(**extra), WANTED, unused=("lm_head.bias",))
