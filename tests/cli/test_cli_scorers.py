import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
from click.testing import CliRunner

from nbench.cli.scorers import scorers
from nbench.errors import ScorerError, UsageError
from nbench.scoring import registry
from nbench.scoring.registry import card_identity, get_scorer, list_scorers
from nbench.scoring.rewards.image_stats import ImageStats
from nbench.scoring.scorer import Score, ScorerCard, Variant


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


class Unavailable:
    """A scorer whose weights are not here."""

    about = replace(get_scorer("image-stats").card, name="far-away", variants=(Variant("x2", 2.0, "twice", "a paper"),))

    @property
    def card(self) -> ScorerCard:
        raise ScorerError("far-away: the weights lab/far are not here.")


@pytest.fixture
def far_away(monkeypatch: pytest.MonkeyPatch) -> None:
    hook = SimpleNamespace(name="far-away", value="tests", load=lambda: lambda device: Unavailable())
    monkeypatch.setattr(registry, "BUILT_IN", (*registry.BUILT_IN, hook))


@pytest.mark.usefixtures("far_away")
def test_a_scorer_without_weights_is_described_but_cannot_be_had() -> None:
    listed = CliRunner().invoke(scorers, ["list"], catch_exceptions=False).output
    (line,) = [line for line in listed.splitlines() if line.startswith("far-away")]
    assert "no, see" in line and "not usable" not in line
    shown = CliRunner().invoke(scorers, ["show", "far-away"], catch_exceptions=False).output
    assert "far-away:x2: twice (a paper)" in shown
    assert "cannot run here" in shown and "lab/far are not here" in shown and "identity" not in shown
    facts = json.loads(CliRunner().invoke(scorers, ["show", "far-away", "--json"], catch_exceptions=False).output)
    assert facts["identity"] is None and "lab/far" in facts["not_usable"]
    with pytest.raises(ScorerError, match=r"not here\. Of the same kind, these can run here: image-stats\."):
        get_scorer("far-away")


@pytest.mark.usefixtures("far_away")
def test_check_all_names_what_it_could_not_run_and_makes_one_table(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = [hook for hook in registry.BUILT_IN if hook.name in ("image-stats", "far-away")]
    monkeypatch.setattr(registry, "BUILT_IN", tuple(kept))
    done = CliRunner().invoke(scorers, ["check", "--all", "--markdown"], catch_exceptions=False)
    assert done.exit_code == 0
    lines = done.output.splitlines()
    assert lines[2] == "| `far-away` | - | - | - | - | - | - | not run: cannot run here |"
    assert lines[3].startswith("| `image-stats` | yes | yes | yes |") and lines[3].endswith("| passed |")
    assert len({line.count("|") for line in lines}) == 1
    plain = CliRunner().invoke(scorers, ["check", "--all"], catch_exceptions=False).output
    assert "not checked: far-away: the weights" in plain and "determinism" in plain


def test_check_wants_names_or_all() -> None:
    for arguments in ([], ["image-stats", "--all"]):
        with pytest.raises(UsageError, match="name the scorers to check, or give --all"):
            CliRunner().invoke(scorers, ["check", *arguments], catch_exceptions=False)
