"""A sequential gate from suite to verdict, on a flow model and a scorer without networks."""

import html
import json
from pathlib import Path
from typing import Any

import pytest
from run_fakes import Fakes, fake_suite

from nbench.errors import UsageError
from nbench.gates.dossier import SEQUENTIAL, write_dossier
from nbench.gates.looks import Look, look_limits, narrowed, run_sequential
from nbench.gates.policy import make_policy
from nbench.prompts import Prompt, PromptSet, load_prompt_set, spread
from nbench.report.gate_looks import look_line, sequential_json
from nbench.runs.store import Store
from nbench.runs.suite import Suite
from nbench.runs.tables import load_run
from nbench.testing import FakeScorer

PROMPTS = tuple(Prompt(f"q{i:03d}", f"prompt {i}", (f"tag{i % 5}",)) for i in range(120))
#: near what the fakes' LoRA loses, so that no number of prompts decides
OPEN = 0.022


class SequentialFakes(Fakes):
    """Fakes whose prompt sets may also be the files that a sequential gate writes."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.made: list[FakeScorer] = []

    def scorer(self, name: str, device: str) -> FakeScorer:
        self.made.append(super().scorer(name, device))
        return self.made[-1]

    @property
    def scored(self) -> int:
        return sum(scorer.scored for scorer in self.made)

    def prompt_set(self, name: str, limit: int | None) -> PromptSet:
        return load_prompt_set(name, limit) if name.endswith(".yaml") else super().prompt_set(name, limit)


def suite(**fields: Any) -> Suite:
    settings = {"limit": None, "seeds": 1, "steps": "2", "batch_size": 4, "scorers": "fake-a", "name": "demo", **fields}
    return fake_suite(**settings)


def sequential(
    store: Store, margin: float, fakes: Fakes | None = None, *, rules: Any = None, seen: Any = None, **fields: Any
) -> Any:
    rules = [{"scorers": ["fake-a"], "margin": {"absolute": margin}}] if rules is None else rules
    return run_sequential(
        make_policy({"name": "p", "rules": rules}),
        suite(**fields),
        store,
        base="base",
        candidate="nft",
        block=16,
        backend=(fakes or SequentialFakes(prompts=PROMPTS)).backend(),
        **({} if seen is None else {"seen": seen}),
    )


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def test_it_stops_at_the_first_look_whose_verdict_is_certain(store: Store) -> None:
    fakes = SequentialFakes(prompts=PROMPTS)
    looks: list[Look] = []
    found = sequential(store, 0.9, fakes, seen=looks.append)
    assert (found.result.verdict, found.result.exit_code, found.stopped) == ("PASS", 0, "the verdict is certain")
    assert looks == list(found.looks) and [one.prompts for one in looks] == [64]
    assert looks[0].generated == 128 and fakes.scored == 128
    assert [path.name for path in (store.root / "runs").iterdir()] == ["demo-nft-0064"]


def test_it_goes_on_in_blocks_and_makes_each_picture_once(store: Store) -> None:
    sequential(store, 0.9)
    fakes = SequentialFakes(prompts=PROMPTS)
    found = sequential(store, OPEN, fakes)
    assert found.result.verdict == "INCONCLUSIVE" and found.stopped == "the prompts are used up"
    assert [(one.prompts, one.generated) for one in found.looks] == [(64, 0), (80, 32), (96, 32), (112, 32), (120, 16)]
    # 56 prompts, two checkpoints, batches of 4, 2 steps and the reference's facts: nothing of the first 64 again
    assert fakes.velocity_calls <= 56 / 4 * 2 * 2 + 4
    assert fakes.scored == 112
    assert len(list(store.root.glob("images/*/*.png"))) == 240
    names = sorted(path.name for path in (store.root / "runs").iterdir())
    assert names == [
        "demo-nft-0064", "demo-nft-0065-to-0080", "demo-nft-0080", "demo-nft-0081-to-0096", "demo-nft-0096",
        "demo-nft-0097-to-0112", "demo-nft-0112", "demo-nft-0113-to-0120", "demo-nft-0120",
    ]  # fmt: skip


def test_each_look_is_the_run_of_that_limit(store: Store) -> None:
    from nbench.runs.execute import execute

    sequential(store, 0.9)
    sequential(store, OPEN)
    plain = execute(suite(name="plain", limit=80), store, backend=SequentialFakes(prompts=PROMPTS).backend())
    assert plain.generated == plain.scored == 0
    look = load_run(store.run("demo-nft-0080"))
    run = load_run(plain.folder)
    assert look.scores.equals(run.scores) and look.card == run.card
    assert set(look.samples["prompt_id"].to_pylist()) == {one.id for one in spread(PROMPTS, 80)}


def test_the_same_command_goes_on_with_a_stopped_one(store: Store) -> None:
    class Stop(Exception):
        pass

    def stop(look: Look) -> None:
        if look.prompts == 80:
            raise Stop

    sequential(store, 0.9)
    with pytest.raises(Stop):
        sequential(store, OPEN, seen=stop)
    again = sequential(store, OPEN)
    assert [one.generated for one in again.looks] == [0, 0, 32, 32, 16]
    straight = sequential(Store(store.root.parent / "other"), OPEN)
    assert again.result.rows == straight.result.rows


def test_a_policy_that_nothing_can_pass_stops_at_once(store: Store) -> None:
    found = sequential(store, 0.1, rules=[])
    assert (found.result.exit_code, len(found.looks)) == (2, 1) and "no critical measure" in found.stopped
    missing = sequential(store, 0.1, rules=[{"kinds": ["judge"], "margin": {"sd": 1}}])
    assert (missing.result.exit_code, len(missing.looks)) == (2, 1) and "no scorer of kind judge" in missing.stopped


def test_missing_scores_pass_nothing(store: Store) -> None:
    broken = SequentialFakes(prompts=PROMPTS, fail_prompts=[spread(PROMPTS, 10)[0].text])
    found = sequential(store, 0.9, broken)
    assert found.result.exit_code == 2 and "too many scores are missing already" in found.stopped


def test_too_few_prompts_are_refused_before_anything_is_made(store: Store) -> None:
    for fields in ({"limit": 40}, {}):
        fakes = SequentialFakes(prompts=PROMPTS if fields else PROMPTS[:40])
        with pytest.raises(UsageError, match="40 prompts are too few for a sequential gate, whose first look is at 50"):
            sequential(store, 0.9, fakes, **fields)
        assert not fakes.loads


def test_the_suites_limit_is_the_most_that_is_taken(store: Store) -> None:
    found = sequential(store, OPEN, limit=70)
    assert [one.prompts for one in found.looks] == [64, 70] and found.prompts == 70


@pytest.mark.parametrize(
    ("total", "block", "wanted"),
    [(120, 16, [64, 80, 96, 112, 120]), (50, 16, [50]), (51, 1, [50, 51]), (64, 16, [64]), (60, 500, [60])],
)
def test_the_first_look_is_where_bounds_begin(total: int, block: int, wanted: list[int]) -> None:
    assert look_limits(total, block) == wanted


def test_a_block_of_nothing_is_refused() -> None:
    with pytest.raises(UsageError, match="a block of 0 prompts"):
        look_limits(100, 0)


def test_only_the_two_checkpoints_are_run() -> None:
    three = ["x=fake-x", "base=fake-base", "nft=fake-base+fake-lora"]
    assert [one.name for one in narrowed(suite(checkpoints=three), "base", "nft").checkpoints] == ["base", "nft"]
    assert narrowed(suite(checkpoints=three), "base", "nft").reference == "base"
    ratio = narrowed(suite(checkpoints=three, norm_ratio=True), "base", "nft")
    assert [one.name for one in ratio.checkpoints] == ["x", "base", "nft"] and ratio.reference == "x"


def test_checkpoints_that_the_suite_has_not_are_named() -> None:
    with pytest.raises(UsageError, match=r"no checkpoint 'nfd'. Did you mean 'nft'\?"):
        narrowed(suite(), "base", "nfd")
    with pytest.raises(UsageError, match="both 'nft'"):
        narrowed(suite(), "nft", "nft")


def test_the_json_tells_every_look(store: Store) -> None:
    found = sequential(store, OPEN, limit=70)
    told = json.loads(json.dumps(sequential_json(found), allow_nan=False))
    assert told["verdict"] == found.result.verdict and told["sequential"]["most_prompts"] == 70
    assert [look["prompts"] for look in told["sequential"]["looks"]] == [64, 70]
    assert look_line(found.looks[0]).startswith("64 prompts: ")


def test_its_dossier_says_which_intervals_are_no_evidence(store: Store, tmp_path: Path) -> None:
    found = sequential(store, OPEN, limit=70)
    write_dossier(found.result, *found.sides, "p.yaml", tmp_path / "out", looks=found)
    assert SEQUENTIAL in html.unescape((tmp_path / "out/index.html").read_text())
    told = json.loads((tmp_path / "out/gate.json").read_text())
    assert len(told["sequential"]["looks"]) == 2 and told["rows"][0]["detectable_drop"] is None
