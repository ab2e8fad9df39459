"""The LAION aesthetic head: the published tensors, one linear map, nothing else accepted."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from clip_parts import PICTURES, values
from torch import nn

from nbench.errors import ScorerError
from nbench.scoring.rewards.laion_aesthetic import HEAD_SOURCE, SHA256, apply_head, create, read_head
from nbench.testing.clip_weights import aesthetic_head


@pytest.fixture
def published_head(tmp_path: Path) -> Path:
    return aesthetic_head(tmp_path / "head.pth", 768, seed=1)


def test_the_published_head_is_a_sequential_of_linear_layers_and_dropouts(published_head: Path) -> None:
    layers = [nn.Linear(768, 1024), nn.Dropout(0.2), nn.Linear(1024, 128), nn.Dropout(0.2), nn.Linear(128, 64)]
    module = nn.Module()
    module.layers = nn.Sequential(*layers, nn.Dropout(0.1), nn.Linear(64, 16), nn.Linear(16, 1))
    module.load_state_dict(torch.load(published_head, weights_only=True))
    module.eval()
    features = torch.nn.functional.normalize(torch.randn(5, 768, generator=torch.Generator().manual_seed(0)))
    with torch.inference_mode():
        wanted = module.layers(features)[:, 0]
    torch.testing.assert_close(apply_head(read_head(published_head), features), wanted)
    assert wanted.std() > 1e-3


def test_it_is_one_linear_map(published_head: Path) -> None:
    head = {name: tensor.double() for name, tensor in read_head(published_head).items()}
    one, other = torch.randn(2, 4, 768, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    middle = apply_head(head, (one + other) / 2)
    torch.testing.assert_close(middle, (apply_head(head, one) + apply_head(head, other)) / 2)


@pytest.mark.usefixtures("published")
def test_prompts_do_not_count() -> None:
    scorer = create("cpu")
    assert values(scorer, PICTURES, ["a cat"] * 6) == values(scorer, PICTURES, [""] * 6)
    assert not scorer.card.uses_prompt


def missing(state: dict[str, torch.Tensor]) -> None:
    del state["layers.7.bias"]


def with_more(state: dict[str, torch.Tensor]) -> None:
    state["layers.9.weight"] = torch.zeros(1, 1)


def broken_chain(state: dict[str, torch.Tensor]) -> None:
    state["layers.4.weight"] = torch.zeros(64, 100)


def two_numbers(state: dict[str, torch.Tensor]) -> None:
    state["layers.7.weight"], state["layers.7.bias"] = torch.zeros(2, 16), torch.zeros(2)


@pytest.mark.parametrize("spoil", [missing, with_more, broken_chain, two_numbers])
def test_another_head_is_refused(published_head: Path, spoil: object) -> None:
    state = torch.load(published_head, weights_only=True)
    spoil(state)  # type: ignore[operator]
    torch.save(state, published_head)
    with pytest.raises(ScorerError, match=r"head\.pth.*is it the right file"):
        read_head(published_head)


def test_a_web_page_saved_as_the_head_is_refused(tmp_path: Path) -> None:
    page = tmp_path / "head.pth"
    page.write_text("<!DOCTYPE html><html>the page about the file</html>")
    with pytest.raises(ScorerError, match=r"head\.pth is corrupt"):
        read_head(page)


def test_a_head_of_another_width_than_clip_s_features_is_an_error(
    published: Path, published_head: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scorer = create("cpu")
    monkeypatch.setattr("nbench.scoring.rewards.laion_aesthetic.HEAD_SOURCE", _At(published_head))
    with pytest.raises(ScorerError, match=r"takes 768 features, but .* gives 16"):
        scorer.score(PICTURES[:1], [""])


class _At:
    """A source whose only file is here."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def path(self, name: str) -> Path:
        return self._path


def test_where_to_get_the_head_is_said_with_its_digest() -> None:
    assert HEAD_SOURCE.url.startswith("https://github.com/christophschuhmann/improved-aesthetic-predictor/raw/")
    assert HEAD_SOURCE.revision in HEAD_SOURCE.url and SHA256[:12] in HEAD_SOURCE.url
