"""What scorers with a network share: fixed-size forwards, refusals, running out of memory, letting go."""

from functools import cached_property
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from nbench.errors import InfrastructureError, ScorerError
from nbench.scoring.network import NetworkScorer
from nbench.scoring.scorer import Metric, Score, ScorerCard
from nbench.scoring.weights import WEIGHTS_FOLDER, Source


class Grey(NetworkScorer):
    """Mean pixel; says what it was called with."""

    about = ScorerCard("grey", "reward", "1", (Metric("", "higher", "0 to 255"),), "Mean pixel.", uses_prompt=True)
    sources = (Source("lab/grey", None, ("grey.bin",), url="https://example.org"),)
    rows_per_forward = 4

    def __init__(self, memory: int = 100) -> None:
        super().__init__("cpu")
        self.memory = memory
        self.calls: list[list[str]] = []
        self.loads = 0

    @cached_property
    def network(self) -> str:
        self.loads += 1
        return "a network"

    def values(self, images: list[Image.Image], prompts: list[str]) -> list[Score]:
        assert self.network and torch.is_inference_mode_enabled()
        if len(images) > self.memory:
            raise torch.OutOfMemoryError
        assert all(image.mode == "RGB" for image in images)
        self.calls.append(prompts)
        return [Score.of(float(np.asarray(image).mean()), truncated=len(prompt) > 1) for image, prompt in
                zip(images, prompts, strict=True)]  # fmt: skip


def pictures(count: int) -> list[Image.Image]:
    return [Image.new("L", (3, 3), i) for i in range(count)]


def test_short_chunks_are_filled_up_and_rows_stay_in_order() -> None:
    scorer = Grey()
    scores = scorer.score(pictures(6), list("abcdef"))
    assert [score.values for score in scores] == [{"": float(i)} for i in range(6)]
    assert scorer.calls == [list("abcd"), list("efff")]


def test_an_empty_prompt_has_a_reason_and_costs_no_forward() -> None:
    scorer = Grey()
    scores = scorer.score(pictures(3), ["a", "  ", "c"])
    assert [score.reason for score in scores] == [None, "the prompt is empty", None]
    assert scorer.calls == [["a", "c", "c", "c"]]
    assert scorer.score([], []) == [] and scorer.score(pictures(1), [""])[0].reason


def test_forwards_are_halved_until_they_fit_and_stay_so() -> None:
    scorer = Grey(memory=1)
    assert [score.values for score in scorer.score(pictures(3), list("abc"))] == [{"": float(i)} for i in range(3)]
    assert scorer.calls == [["a"], ["b"], ["c"]] and scorer.rows_per_forward == 1
    with pytest.raises(InfrastructureError, match="grey has not enough memory on cpu for one picture"):
        Grey(memory=0).score(pictures(3), list("abc"))


def test_the_card_needs_the_weights_and_about_does_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(WEIGHTS_FOLDER, raising=False)
    assert Grey().about.name == "grey"
    with pytest.raises(ScorerError, match=r"^grey: the weights lab/grey are not here"):
        _ = Grey().card
    monkeypatch.setenv(WEIGHTS_FOLDER, str(tmp_path))
    (tmp_path / "lab" / "grey").mkdir(parents=True)
    (tmp_path / "lab" / "grey" / "grey.bin").write_bytes(b"1")
    assert list(Grey().card.weights) == ["lab/grey/grey.bin"]


def test_close_lets_the_network_go_and_keeps_the_card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    test_the_card_needs_the_weights_and_about_does_not(tmp_path, monkeypatch)
    scorer = Grey()
    card = scorer.card
    for loads in (1, 2):
        scorer.score(pictures(1), ["a"])
        assert scorer.loads == loads
        scorer.close()
    assert "network" not in vars(scorer) and scorer.card is card
