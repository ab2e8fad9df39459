"""Sessions: one loaded base for all its LoRAs, a second for full fine-tunes, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from run_fakes import Fakes

from nbench.errors import CheckpointError, UsageError
from nbench.flow.spec import CheckpointSpec
from nbench.normguard.analysis.session import Request, Session
from nbench.testing import FakeFlowModel

LORAS = (CheckpointSpec("nft", "fake", lora="a"), CheckpointSpec("awm", "fake", lora="b"))


def _session(fakes: Fakes, *checkpoints: CheckpointSpec, **fields: object) -> Session:
    asked = {"checkpoints": checkpoints, "prompts": "fake", "device": "cpu", "seeds": 2, **fields}
    return Session(Request(**asked), backend=fakes.backend())  # type: ignore[arg-type]


def test_loras_are_swapped_under_one_loaded_base() -> None:
    fakes = Fakes()
    session = _session(fakes, *LORAS)
    session.check_differs()
    seen = []
    for pair in session.pairs():
        assert isinstance(pair.model, FakeFlowModel)
        seen.append((pair.name, pair.model.lora))
        assert pair.reference.weights_hash == FakeFlowModel("fake").weights_hash != pair.model.weights_hash
        assert pair.guidance == 1.0
    assert seen == [("nft", "a"), ("awm", "b")] and fakes.loads == ["nft"]
    assert session.samples == 16


def test_a_full_fine_tune_is_loaded_beside_its_base() -> None:
    fakes = Fakes()
    session = _session(fakes, CheckpointSpec("tuned", "fake-tuned"), base="fake", guidance=3.0)
    session.check_differs()
    (pair,) = session.pairs()
    assert fakes.loads == ["tuned", "base"] and pair.guidance == 3.0
    assert pair.model.weights_hash == FakeFlowModel("fake-tuned").weights_hash
    assert pair.reference.weights_hash == FakeFlowModel("fake").weights_hash


def test_a_checkpoint_that_is_its_own_base_is_refused() -> None:
    with pytest.raises(CheckpointError, match="'tuned' is its own base"):
        _session(Fakes(), CheckpointSpec("tuned", "fake")).check_differs()


@pytest.mark.parametrize(("checkpoints", "message"), [((), "no checkpoint"), ((LORAS[0], LORAS[0]), "'nft' is there")])
def test_names_must_be_distinct(checkpoints: tuple[CheckpointSpec, ...], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        _session(Fakes(), *checkpoints)


def test_a_pipeline_that_only_generates_is_refused(epsilon_folder: Path) -> None:
    request = Request((CheckpointSpec("sd", str(epsilon_folder)),), device="cpu")
    with pytest.raises(CheckpointError):
        Session(request)


def test_a_suite_has_the_base_as_reference_under_a_free_name() -> None:
    session = _session(Fakes(), CheckpointSpec("base", "fake", lora="a"), size=(32, 32), limit=3)
    suite = session.suite(steps="2,4", scorers="fake-a")
    assert [(entry.name, entry.lora) for entry in suite.checkpoints] == [("reference", None), ("base", "a")]
    assert suite.reference_name == "reference" and suite.steps == (2, 4) and (suite.height, suite.limit) == (32, 3)
    several = _session(Fakes(), LORAS[0], CheckpointSpec("other", "other", lora="a"))
    with pytest.raises(UsageError, match="several bases"):
        several.suite(steps="2", scorers="")


def test_settings_change_with_what_changes_figures_and_name_no_path(tmp_path: Path) -> None:
    one = _session(Fakes(), CheckpointSpec("nft", str(tmp_path), lora=str(tmp_path / "lora")))
    text = json.dumps(one.settings(eta=0.7))
    assert str(tmp_path) not in text and '"eta": 0.7' in text
    for change in ({"seeds": 3}, {"seed": 1}, {"steps": 4}, {"guidance": 2.0}, {"limit": 2}, {"dtype": "bfloat16"}):
        other = _session(Fakes(), CheckpointSpec("nft", str(tmp_path), lora=str(tmp_path / "lora")), **change)
        assert json.dumps(other.settings(eta=0.7)) != text
