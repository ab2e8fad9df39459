import dataclasses
import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import EntryPoint
from types import SimpleNamespace

import pytest

from nbench.errors import ScorerError
from nbench.scoring import registry
from nbench.scoring.registry import (
    BUILT_IN,
    GROUP,
    card_identity,
    describe_scorer,
    get_scorer,
    list_scorers,
    scorer_entries,
)
from nbench.scoring.scorer import Metric, ScorerCard

CARD = ScorerCard(
    name="fresh",
    kind="reward",
    version="1",
    metrics=(Metric("", "higher", "cosine"),),
    summary="a summary",
    uses_prompt=True,
    weights={"model": "ab"},
    preprocessing="none",
    licence="MIT",
    source="here",
)


def make_fresh(device: str) -> SimpleNamespace:
    return SimpleNamespace(card=CARD, device=device)


def make_nothing(device: str) -> None:
    return None


def make_error(device: str) -> None:
    raise KeyError("no such thing")


def register(monkeypatch: pytest.MonkeyPatch, hooks: Sequence[EntryPoint]) -> None:
    monkeypatch.setattr(registry, "entry_points", lambda *, group: list(hooks) if group == GROUP else [])


def here(name: str, factory: str) -> EntryPoint:
    return EntryPoint(name, f"{__name__}:{factory}", GROUP)


def test_built_in_scorers_are_listed_and_made_under_their_own_names() -> None:
    assert {"image-stats", "pocket-aesthetic", "pocket-clip"} <= set(list_scorers())
    for hook in BUILT_IN:
        card, _ = describe_scorer(hook.name)  # also of those whose weights are not here
        assert card.name == hook.name and card.metrics and card.summary and card.licence and card.source


def test_built_ins_use_the_same_hook_as_plug_ins() -> None:
    assert all(isinstance(hook, EntryPoint) and hook.group == GROUP for hook in BUILT_IN)


def test_unknown_name_names_the_nearest() -> None:
    with pytest.raises(ScorerError, match=r"unknown scorer 'pocket-clop'.*'pocket-clip'"):
        get_scorer("pocket-clop")


def test_a_registered_factory_gets_the_device_and_is_listed_with_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch, [here("fresh", "make_fresh")])
    assert get_scorer("fresh", "cuda:1").device == "cuda:1"  # type: ignore[attr-defined]
    assert [entry.package for entry in scorer_entries() if entry.name == "fresh"] == [__name__]


def test_a_name_claimed_twice_is_refused_not_silently_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch, [here("image-stats", "make_fresh")])
    with pytest.raises(ScorerError, match="claimed by nbench and"):
        get_scorer("image-stats")
    assert list_scorers().count("image-stats") == 1


@pytest.mark.parametrize(
    ("hook", "message"),
    [
        (EntryPoint("lost", "no_such_package_of_ours:create", GROUP), "cannot be imported"),
        (here("lost", "make_no_such_name"), "cannot be imported"),
        (here("lost", "make_nothing"), "could not be made"),
        (here("lost", "make_error"), "KeyError"),
        (here("lost", "make_fresh"), "calls itself 'fresh'"),
    ],
)
def test_a_broken_plug_in_is_named_and_harms_no_other(
    monkeypatch: pytest.MonkeyPatch, hook: EntryPoint, message: str
) -> None:
    register(monkeypatch, [hook])
    with pytest.raises(ScorerError, match=message) as caught:
        get_scorer("lost")
    assert hook.value in str(caught.value)
    assert get_scorer("image-stats").card.name == "image-stats"


@pytest.mark.parametrize(
    "change",
    [
        {"name": "stale"},
        {"version": "2"},
        {"metrics": (Metric("", "lower", "cosine"),)},
        {"uses_prompt": False},
        {"weights": {"model": "cd"}},
        {"preprocessing": "centre crop"},
    ],
)
def test_identity_follows_everything_that_moves_a_value(change: dict[str, object]) -> None:
    assert card_identity(dataclasses.replace(CARD, **change)) != card_identity(CARD)  # type: ignore[arg-type]


def test_identity_ignores_prose_and_the_order_of_weights() -> None:
    prose = dataclasses.replace(CARD, summary="other words", licence="BSD", source="there")
    assert card_identity(prose) == card_identity(CARD)
    one = dataclasses.replace(CARD, weights={"a": "1", "b": "2"})
    assert card_identity(one) == card_identity(dataclasses.replace(CARD, weights={"b": "2", "a": "1"}))


def test_cards_are_read_without_importing_torch() -> None:
    code = (
        "import sys; from nbench.scoring.registry import *; "
        "cards = [describe_scorer(name)[0] for name in list_scorers()]; "
        "assert len(cards) >= 3; print('torch' in sys.modules, 'open_clip' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
