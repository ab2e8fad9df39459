import json

import pytest
from click.testing import CliRunner

from nbench.cli.scorers import scorers
from nbench.errors import ScorerError
from nbench.scoring.registry import card_identity, get_scorer, list_scorers
from nbench.scoring.rewards.image_stats import ImageStats
from nbench.scoring.scorer import Score


def test_list_names_every_scorer() -> None:
    done = CliRunner().invoke(scorers, ["list"], catch_exceptions=False)
    assert done.exit_code == 0
    assert list_scorers() and all(name in done.output for name in list_scorers())


def test_show_gives_the_card_and_its_identity() -> None:
    card = get_scorer("pocket-clip").card
    done = CliRunner().invoke(scorers, ["show", "pocket-clip", "--json"], catch_exceptions=False)
    shown = json.loads(done.output)
    assert shown["identity"] == card_identity(card)
    assert shown["weights"] == dict(card.weights)
    text = CliRunner().invoke(scorers, ["show", "pocket-clip"], catch_exceptions=False).output
    assert "cosine, -1 to 1; higher is better" in text


def test_an_unknown_scorer_is_an_input_error() -> None:
    with pytest.raises(ScorerError) as caught:
        CliRunner().invoke(scorers, ["show", "pocket-clpi"], catch_exceptions=False)
    assert caught.value.exit_code == 3


def test_check_passes_a_sound_scorer() -> None:
    done = CliRunner().invoke(scorers, ["check", "image-stats"], catch_exceptions=False)
    assert done.exit_code == 0
    assert "FAILED" not in done.output and "determinism" in done.output


def test_check_exits_with_1_and_names_what_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ImageStats, "score", lambda self, images, prompts: [Score.failed("broken") for _ in images])
    done = CliRunner().invoke(scorers, ["check", "image-stats"], catch_exceptions=False)
    assert done.exit_code == 1
    assert "image-stats failed: one score per picture." in done.output
