"""A backend of fakes: models and scorers without networks, two prompt sets, hashes without files."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

from nbench.errors import ScorerError
from nbench.flow.load import CheckpointSpec
from nbench.prompts import Prompt, PromptSet
from nbench.runs.backend import Backend
from nbench.runs.store import RunFolder
from nbench.runs.suite import Suite, make_suite
from nbench.runs.tables import TABLES
from nbench.testing import FakeFlowModel, FakeScorer

PROMPTS = tuple(Prompt(f"p{i}", f"prompt number {i}", (f"tag{i % 2}",)) for i in range(8))


class Fakes:
    """Builds a `Backend`, and counts what it was asked for.

    Attributes:
        loads: names of the specs that were loaded.
        models: every model that was loaded.
        scorers: every scorer that was made, the latest of each name.
    """

    def __init__(
        self,
        *,
        delay: float = 0.0,
        score_delay: float = 0.0,
        nan_prompts: Collection[str] = (),
        fail_prompts: Collection[str] = (),
        raise_prompts: Collection[str] = (),
        scorer_version: str = "1",
        prompts: tuple[Prompt, ...] = PROMPTS,
    ) -> None:
        self.delay, self.score_delay = delay, score_delay
        self.nan_prompts, self.fail_prompts, self.raise_prompts = nan_prompts, fail_prompts, raise_prompts
        self.scorer_version = scorer_version
        self.prompts = prompts
        self.loads: list[str] = []
        self.models: list[FakeFlowModel] = []
        self.scorers: dict[str, FakeScorer] = {}

    def model(self, spec: CheckpointSpec) -> FakeFlowModel:
        return FakeFlowModel(
            spec.base, lora=spec.lora, lora_scale=spec.lora_scale, delay=self.delay, nan_prompts=self.nan_prompts
        )

    def load(self, spec: CheckpointSpec) -> FakeFlowModel:
        self.loads.append(spec.name)
        self.models.append(self.model(spec))
        return self.models[-1]

    def scorer(self, name: str, device: str) -> FakeScorer:
        if not name.startswith("fake"):
            raise ScorerError(f"unknown scorer {name!r}.")
        self.scorers[name] = FakeScorer(
            name,
            version=self.scorer_version,
            delay=self.score_delay,
            fail_prompts=self.fail_prompts,
            raise_prompts=self.raise_prompts,
        )
        return self.scorers[name]

    def prompt_set(self, name: str, limit: int | None) -> PromptSet:
        found = PromptSet(name, self.prompts, source="tests", licence="CC0-1.0", total=len(self.prompts))
        return found if limit is None else found.limited(limit)

    @property
    def velocity_calls(self) -> int:
        return sum(model.velocity_calls for model in self.models)

    @property
    def scored(self) -> int:
        return sum(scorer.scored for scorer in self.scorers.values())

    def backend(self) -> Backend:
        return Backend(
            weights_hash=lambda spec: self.model(spec).weights_hash,
            load=self.load,
            swap_lora=lambda model, lora, scale: model.swap_lora(lora, scale),
            reference_view=lambda model: model.reference_view(),
            scorer=self.scorer,
            prompts=self.prompt_set,
        )


def fake_suite(**fields: Any) -> Suite:
    """A small suite of two checkpoints on one base; `fields` replace its own."""
    content: dict[str, Any] = {
        "name": "demo",
        "checkpoints": ["base=fake-base", "nft=fake-base+fake-lora"],
        "prompts": "fake",
        "limit": 4,
        "steps": "2,4",
        "seeds": 2,
        "batch_size": 3,
        "scorers": "fake-a,fake-b",
        "device": "cpu",
    }
    return make_suite({**content, **fields})


def contents(root: Path) -> dict[str, bytes]:
    """Every picture and table of a store with one run, by path: what equal runs share. Missing tables are left out."""
    files = [*root.glob("images/*/*.png")]
    for run in root.glob("runs/*"):
        files += [RunFolder(run).path / f"{name}.parquet" for name in TABLES]
    return {str(path.relative_to(root)): path.read_bytes() for path in files if path.exists()}
