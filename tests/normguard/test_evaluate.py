"""Evaluation from models in memory: the same pictures, tables and numbers as a plain run over the saved checkpoints."""

import os
import random
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from run_fakes import PROMPTS, Fakes, contents

from nbench.errors import CheckpointError, RunInterruptedError, UsageError
from nbench.flow.load import CheckpointSpec, load_model
from nbench.flow.model import Conditioning
from nbench.normguard.evaluate import EvaluatedModel, Evaluation, Evaluator
from nbench.prompts import PromptSet, load_prompt_set
from nbench.runs.backend import Backend
from nbench.runs.execute import execute
from nbench.runs.store import Store
from nbench.runs.suite import read_suite
from nbench.runs.tables import TABLES
from nbench.scoring.scorer import Scorer
from nbench.testing import FakeFlowModel, tiny_lora, tiny_sd3

HELD_OUT = PromptSet("fake", PROMPTS[:4], source="tests", licence="CC0-1.0", total=len(PROMPTS))
CELLS = 4 * 2 * 2  # prompts, seeds, step counts: of one checkpoint


@pytest.fixture(scope="module", autouse=True)
def _no_fsync() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


def backend_of(fakes: Fakes) -> Backend:
    return replace(fakes.backend(), prompts=load_prompt_set)


def make(folder: Path, fakes: Fakes | None = None, **settings: Any) -> Evaluator:
    content: dict[str, Any] = {
        "store": folder / "eval",
        "prompts": HELD_OUT,
        "prompts_file": folder / "heldout.yaml",
        "base": CheckpointSpec("base", "fake-base"),
        "steps": (2, 4),
        "scorers": ("fake-a", "fake-b"),
        "guidance": 1.0,
        "seeds": 2,
        "batch_size": 3,
        "backend": backend_of(fakes or Fakes()),
    }
    return Evaluator(**{**content, **settings})


def pair(lora: str = "lora-1", **settings: Any) -> dict[str, EvaluatedModel]:
    return {
        "base": EvaluatedModel(FakeFlowModel("fake-base", **settings)),
        "policy": EvaluatedModel(FakeFlowModel("fake-base", lora=lora, **settings), lora=Path(lora)),
    }


def suite_of(folder: Path, name: str) -> Path:
    return folder / "eval" / "runs" / name / "suite.yaml"


def numbers(evaluation: Evaluation) -> tuple[object, ...]:
    return evaluation.comparisons, evaluation.norms


def test_it_loads_nothing_and_writes_what_a_plain_run_of_its_suite_writes(tmp_path: Path) -> None:
    fakes, plain = Fakes(), Fakes()
    found = make(tmp_path, fakes).evaluate(pair(), name="epoch-1")
    assert fakes.loads == []
    assert (found.run, found.base, found.prompts, found.seeds) == ("epoch-1", "base", 4, 2)
    assert (found.generated, found.failed) == (2 * CELLS, 0)
    execute(read_suite(suite_of(tmp_path, "epoch-1")), Store(tmp_path / "other"), backend=backend_of(plain))
    assert plain.loads == ["base"]
    assert len(contents(tmp_path / "eval")) == 2 * CELLS + len(TABLES)
    assert contents(tmp_path / "eval") == contents(tmp_path / "other")


def test_a_plain_run_over_its_store_takes_every_picture_and_score_over(tmp_path: Path) -> None:
    make(tmp_path).evaluate(pair(), name="epoch-1")
    plain = Fakes()
    suite = read_suite(suite_of(tmp_path, "epoch-1"), {"name": "again"})
    result = execute(suite, Store(tmp_path / "eval"), backend=backend_of(plain))
    assert (result.cells, result.generated, result.scored) == (2 * CELLS, 0, 0)
    assert plain.velocity_calls == 0


def test_differences_and_norm_ratios_are_those_of_the_tables(tmp_path: Path) -> None:
    found = make(tmp_path).evaluate(pair(), name="epoch-1")
    assert [(c.metric, c.steps) for c in found.comparisons] == [
        ("fake-a", 2), ("fake-b", 2), ("fake-a", 4), ("fake-b", 4),
    ]  # fmt: skip
    for comparison in found.comparisons:
        assert comparison.coverage == 1 and comparison.difference is not None
        assert (comparison.difference.clusters, comparison.difference.values) == (4, 8)
        assert comparison.difference.mean != 0
    for norm in found.norms:
        assert norm.ratio is not None and norm.ratio.mean > 1.05  # the fake LoRA makes velocities longer


def test_a_checkpoint_that_equals_the_base_differs_by_exactly_nothing(tmp_path: Path) -> None:
    class Untrained(FakeFlowModel):
        def velocity(
            self, x: torch.Tensor, sigma: torch.Tensor, cond: Conditioning, *, guidance: float
        ) -> torch.Tensor:
            return self.reference_view().velocity(x, sigma, cond, guidance=guidance)

    models = pair() | {"policy": EvaluatedModel(Untrained("fake-base", lora="lora-1"), lora=Path("lora-1"))}
    found = make(tmp_path).evaluate(models, name="epoch-0")
    for comparison in found.comparisons:
        assert comparison.difference is not None and comparison.base == comparison.mean
        assert (comparison.difference.mean, comparison.difference.low, comparison.difference.high) == (0, 0, 0)
    assert [norm.ratio.mean for norm in found.norms if norm.ratio] == [1, 1]


def test_the_base_is_generated_and_the_texts_are_encoded_once_for_all_evaluations(tmp_path: Path) -> None:
    evaluator = make(tmp_path)
    first, second = pair("lora-1"), pair("lora-2")
    assert evaluator.evaluate(first, name="epoch-1").generated == 2 * CELLS
    later = evaluator.evaluate(second, name="epoch-2")
    assert later.generated == CELLS
    assert fakes_of(second["base"]).velocity_calls > 0  # at the policy's states, for the norm ratios
    encoded = [text for models in (first, second) for model in models.values() for text in fakes_of(model).encoded]
    assert sorted(set(encoded)) == sorted(prompt.text for prompt in HELD_OUT)
    assert all(not fakes_of(model).encoded for model in second.values())


def fakes_of(model: EvaluatedModel) -> FakeFlowModel:
    assert isinstance(model.model, FakeFlowModel)
    return model.model


def test_the_base_alone_can_be_evaluated_before_the_training(tmp_path: Path) -> None:
    evaluator = make(tmp_path)
    found = evaluator.evaluate({"base": pair()["base"]}, name="start")
    assert (found.generated, found.comparisons, found.norms) == (CELLS, (), ())
    assert evaluator.evaluate(pair(), name="epoch-1").generated == CELLS


def test_evaluating_again_calls_no_model_and_gives_the_same_numbers(tmp_path: Path) -> None:
    first = make(tmp_path).evaluate(pair(), name="epoch-1")
    again, fakes = pair(), Fakes()
    second = make(tmp_path, fakes).evaluate(again, name="epoch-1")  # another process, as after a resume
    assert (second.run, second.generated) == ("epoch-1", 0)
    assert numbers(second) == numbers(first)
    assert all(fakes_of(model).velocity_calls == 0 for model in again.values())
    assert fakes.scored == 0


def test_an_evaluation_that_was_cut_short_goes_on_and_equals_a_straight_one(tmp_path: Path) -> None:
    class Cut(FakeFlowModel):
        def velocity(
            self, x: torch.Tensor, sigma: torch.Tensor, cond: Conditioning, *, guidance: float
        ) -> torch.Tensor:
            if self.velocity_calls == 8:
                raise KeyboardInterrupt
            return super().velocity(x, sigma, cond, guidance=guidance)

    straight = make(tmp_path / "straight").evaluate(pair(), name="epoch-1")
    models = pair() | {"policy": EvaluatedModel(Cut("fake-base", lora="lora-1"), lora=Path("lora-1"))}
    with pytest.raises(RunInterruptedError):
        make(tmp_path / "cut").evaluate(models, name="epoch-1")
    resumed = make(tmp_path / "cut").evaluate(pair(), name="epoch-1")
    assert 0 < resumed.generated < CELLS
    assert numbers(resumed) == numbers(straight)
    assert contents(tmp_path / "cut" / "eval") == contents(tmp_path / "straight" / "eval")


def test_other_weights_under_the_same_name_get_a_run_of_their_own(tmp_path: Path) -> None:
    make(tmp_path).evaluate(pair("lora-1"), name="epoch-1")
    before = {path: path.read_bytes() for path in (tmp_path / "eval/runs/epoch-1").glob("*.*")}
    other = make(tmp_path).evaluate(pair("lora-2"), name="epoch-1")
    assert (other.run, other.generated) == ("epoch-1-2", CELLS)
    assert {path: path.read_bytes() for path in (tmp_path / "eval/runs/epoch-1").glob("*.*")} == before
    again = make(tmp_path).evaluate(pair("lora-2"), name="epoch-1")
    assert (again.run, again.generated, numbers(again)) == ("epoch-1-2", 0, numbers(other))
    assert make(tmp_path).evaluate(pair("lora-3"), name="epoch-1").run == "epoch-1-3"
    assert make(tmp_path).evaluate(pair("lora-1"), name="epoch-1").run == "epoch-1"


def test_several_checkpoints_are_each_compared_with_the_base_wherever_it_stands(tmp_path: Path) -> None:
    models = {**pair(), "ema": EvaluatedModel(FakeFlowModel("fake-base", lora="ema-1"), lora=Path("ema-1"))}
    last = {name: models[name] for name in ("policy", "ema", "base")}
    first = make(tmp_path / "first").evaluate(models, name="epoch-1")
    second = make(tmp_path / "last").evaluate(last, name="epoch-1")
    assert {comparison.checkpoint for comparison in first.comparisons} == {"policy", "ema"}
    assert numbers(first) == numbers(second)
    assert first.comparison("policy", "fake-a", 4) != first.comparison("ema", "fake-a", 4)


def test_failures_lower_the_coverage_and_are_never_a_number(tmp_path: Path) -> None:
    fakes = Fakes(fail_prompts=[PROMPTS[0].text])
    found = make(tmp_path, fakes).evaluate(pair(nan_prompts=[PROMPTS[1].text]), name="epoch-1")
    assert found.failed == 2 * 2 * 2  # a prompt's seeds at two step counts, of both checkpoints
    assert {comparison.coverage for comparison in found.comparisons} == {0.5}
    assert {norm.coverage for norm in found.norms} == {0.75}
    assert all(comparison.difference is not None for comparison in found.comparisons)


def test_a_policy_that_broke_has_no_value_and_the_base_keeps_its_pictures(tmp_path: Path) -> None:
    texts = [prompt.text for prompt in HELD_OUT]

    class Broken(FakeFlowModel):
        def velocity(
            self, x: torch.Tensor, sigma: torch.Tensor, cond: Conditioning, *, guidance: float
        ) -> torch.Tensor:
            return super().velocity(x, sigma, cond, guidance=guidance) * float("nan")

    models = pair() | {"policy": EvaluatedModel(Broken("fake-base", lora="lora-1"), lora=Path("lora-1"))}
    found = make(tmp_path).evaluate(models, name="epoch-1")
    assert (found.generated, found.failed) == (CELLS, CELLS) and len(texts) == 4
    assert all(comparison.difference is None and comparison.coverage == 0 for comparison in found.comparisons)
    assert all(norm.ratio is None for norm in found.norms)


def test_a_view_that_knows_only_its_base_is_stored_under_what_was_saved(tmp_path: Path) -> None:
    class RoleView(FakeFlowModel):
        def _set_lora(self, lora: str | None, scale: float) -> None:
            super()._set_lora(lora, scale)
            self.weights_hash = FakeFlowModel(self.name).weights_hash

    models = pair() | {"policy": EvaluatedModel(RoleView("fake-base", lora="lora-1"), lora=Path("lora-1"))}
    found = make(tmp_path / "view").evaluate(models, name="epoch-1")
    assert numbers(found) == numbers(make(tmp_path / "full").evaluate(pair(), name="epoch-1"))
    assert contents(tmp_path / "view" / "eval") == contents(tmp_path / "full" / "eval")


@pytest.mark.parametrize(
    ("models", "message"),
    [
        ({"policy": EvaluatedModel(FakeFlowModel("fake-base", lora="b"), lora=Path("a"))}, "'policy' in memory is not"),
        ({"base": EvaluatedModel(FakeFlowModel("other-base"))}, "'base' in memory is not what fake-base holds"),
    ],
)
def test_a_model_that_is_not_what_was_saved_is_refused(
    models: Mapping[str, EvaluatedModel], message: str, tmp_path: Path
) -> None:
    with pytest.raises(CheckpointError, match=message):
        make(tmp_path).evaluate({**pair(), **models}, name="epoch-1")
    assert not (tmp_path / "eval").exists()


def test_no_base_or_two_or_one_place_for_two_checkpoints_is_refused(tmp_path: Path) -> None:
    base, policy = pair().values()
    for models in ({"policy": policy}, {"base": base, "second": base}):
        with pytest.raises(ValueError, match="exactly one of the checkpoints must be the base"):
            make(tmp_path).evaluate(models, name="epoch-1")
    with pytest.raises(ValueError, match="saved as lora-1"):
        make(tmp_path).evaluate({"base": base, "policy": policy, "ema": policy}, name="epoch-1")
    with pytest.raises(ValueError, match="has the LoRA"):
        make(tmp_path, base=CheckpointSpec("base", "fake-base", lora="x"))


def test_a_wrong_setting_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"the evaluation: steps.*'0' is not|0 is not a number of steps"):
        make(tmp_path, steps=(0,)).evaluate(pair(), name="epoch-1")
    with pytest.raises(UsageError, match="unknown scorer 'nonsense'"):
        make(tmp_path, scorers=("nonsense",)).evaluate(pair(), name="epoch-1")


def test_random_states_are_left_alone_though_scorers_draw_from_them(tmp_path: Path) -> None:
    def drawing(name: str, device: str) -> Scorer:
        drawn.append((torch.randn(1).item(), np.random.rand(), random.random()))
        return Fakes().scorer(name, device)

    drawn: list[tuple[float, float, float]] = []
    evaluator = make(tmp_path, backend=replace(backend_of(Fakes()), scorer=drawing))
    torch.manual_seed(7)
    np.random.seed(7)
    random.seed(7)
    evaluator.evaluate(pair(), name="epoch-1")
    after = (torch.randn(1).item(), np.random.rand(), random.random())
    assert drawn and drawn[0] == after


def test_training_under_autocast_does_not_change_the_pictures(tmp_path: Path) -> None:
    seen: list[bool] = []

    class Watching(FakeFlowModel):
        def velocity(
            self, x: torch.Tensor, sigma: torch.Tensor, cond: Conditioning, *, guidance: float
        ) -> torch.Tensor:
            seen.append(torch.is_autocast_enabled("cpu"))
            return super().velocity(x, sigma, cond, guidance=guidance)

    with torch.autocast("cpu", dtype=torch.bfloat16):
        make(tmp_path).evaluate({"base": EvaluatedModel(Watching("fake-base"))}, name="epoch-1")
        assert torch.is_autocast_enabled("cpu")
    assert seen and not any(seen)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, sd3_folder: Path) -> tuple[Path, Path]:
    """A LoRA on the tiny SD3, and a whole fine-tuned copy of it."""
    folder = tmp_path_factory.mktemp("trained")
    return tiny_lora(folder / "lora", sd3_folder, 3), tiny_sd3(folder / "whole", seed=5)


def test_views_of_one_real_transformer_make_the_bytes_of_the_saved_checkpoints(
    tmp_path: Path, sd3_folder: Path, trained: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    lora, whole = trained
    base = CheckpointSpec("base", str(sd3_folder), device="cpu")
    model = load_model(replace(base, lora=str(lora)))
    models = {
        "base": EvaluatedModel(model.reference_view()),  # type: ignore[attr-defined]
        "policy": EvaluatedModel(model, lora=lora),
        "full": EvaluatedModel(load_model(CheckpointSpec("full", str(whole), device="cpu")), folder=whole),
    }
    evaluator = Evaluator(
        store=tmp_path / "eval", prompts=HELD_OUT, prompts_file=tmp_path / "heldout.yaml", base=base, steps=(1, 2),
        scorers=("image-stats",), guidance=4.0, size=(16, 16), batch_size=3,
    )  # fmt: skip
    with monkeypatch.context() as patch:
        patch.setattr("nbench.flow.load.load_model", None)
        found = evaluator.evaluate(models, name="epoch-1")
    assert (found.generated, found.failed) == (3 * 4 * 2, 0)
    suite = read_suite(suite_of(tmp_path, "epoch-1"))
    execute(suite, Store(tmp_path / "plain"))
    assert contents(tmp_path / "plain") == contents(tmp_path / "eval")
    again = execute(suite.model_copy(update={"name": "again"}), Store(tmp_path / "eval"))
    assert (again.generated, again.scored) == (0, 0)
    assert {norm.checkpoint for norm in found.norms if norm.ratio and norm.ratio.mean != 1} == {"policy", "full"}
