"""A sequential gate's looks: generate a block of prompts, score it, judge, and stop as soon as the verdict is certain.

A look at 80 prompts is an ordinary run NAME-0080 with that limit (limits are nested, see `nbench.prompts.spread`), so
each can be shown, compared and reproduced by itself. Before it, the prompts that it adds are run on their own, as
NAME-0065-to-0080: the prompts of a larger limit lie between those of a smaller one, and batches of old and new prompts
mixed would be made again whole. The look itself then finds every picture and score in the store.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from nbench.compare import Side
from nbench.errors import UsageError, did_you_mean
from nbench.gates.evaluate import GateResult
from nbench.gates.policy import Policy
from nbench.gates.sequential import evaluate_look, hopeless
from nbench.prompts import Prompt, PromptSet
from nbench.runs.backend import Backend, default_backend
from nbench.runs.execute import execute
from nbench.runs.files import write_atomic
from nbench.runs.observer import Observer, Quiet
from nbench.runs.store import Store
from nbench.runs.suite import Suite
from nbench.runs.tables import load_run
from nbench.stats.sequential import FEWEST


@dataclass(frozen=True)
class Look:
    """One look.

    Attributes:
        prompts: so far.
        run: its name.
        generated: pictures made for it.
        passed, breached, undecided: gated rows.
        verdict: of the whole.
    """

    prompts: int
    run: str
    generated: int
    passed: int
    breached: int
    undecided: int
    verdict: str


@dataclass(frozen=True)
class SequentialResult:
    """What a sequential gate found.

    Attributes:
        result: of the last look; its bounds hold for all looks together.
        sides: as they were judged at the last look.
        looks: in order.
        prompts: how many there were to take.
        stopped: why it stopped.
    """

    result: GateResult
    sides: tuple[Side, Side]
    looks: tuple[Look, ...]
    prompts: int
    stopped: str


def run_sequential(
    policy: Policy,
    suite: Suite,
    store: Store,
    *,
    base: str,
    candidate: str,
    name: str = "",
    block: int = 16,
    backend: Backend | None = None,
    observer: Observer | None = None,
    seen: Callable[[Look], None] = lambda look: None,
) -> SequentialResult:
    """Run a suite block by block until the policy's verdict is certain or the prompts are used up.

    Args:
        policy: what is held.
        suite: what is run; its limit is the most prompts that are taken.
        store: where everything goes. What it holds is not made again, so the same call resumes a stopped one.
        base: a checkpoint of the suite.
        candidate: another; the suite's others are left out.
        name: of the runs, before the number of prompts; "" is the suite's with the candidate's.
        block: prompts from look to look.
        backend: the rest of nbench; tests give fakes.
        observer: hears of progress.
        seen: hears of each look.

    Raises:
        UsageError: the suite or the policy does not fit, or there are fewer prompts than a first look needs.
        CardMismatchError: a run of a look's name was made with other settings.
        InfrastructureError: as `execute`; the same call goes on.
    """
    backend, observer = backend or default_backend(), observer or Quiet()
    name = name or f"{suite.run_name}-{candidate}"
    pair = narrowed(suite, base, candidate)
    prompts = backend.prompts(suite.prompts, None)
    total = min(len(prompts), suite.limit or len(prompts))
    if total < FEWEST:
        raise UsageError(
            f"{total} prompts are too few for a sequential gate, whose first look is at {FEWEST}: use more, or run the "
            "suite and judge it with `nbench gate check`."
        )
    order: list[str] = []
    looks: list[Look] = []
    limits = look_limits(total, block)
    for limit in limits:
        added = _added(prompts, limit, order)
        made = 0
        if order:
            block_name = f"{name}-{len(order) + 1:04d}-to-{limit:04d}"
            path = _write_prompts(store.run(block_name).path, prompts, added)
            alone = pair.model_copy(update={"name": block_name, "prompts": str(path), "limit": None})
            made += execute(alone, store, backend=backend, observer=observer).generated
        whole = pair.model_copy(update={"name": f"{name}-{limit:04d}", "limit": limit})
        found = execute(whole, store, backend=backend, observer=observer)
        order += [prompt.id for prompt in added]
        tables = load_run(found.folder)
        sides = Side(tables, base), Side(tables, candidate)
        result = evaluate_look(policy, *sides, order, tuned_for=max(FEWEST, total // 2), last=limit == total)
        looks.append(_look(result, found.folder.name, found.generated + made))
        seen(looks[-1])
        lost = hopeless(result, total)
        if result.verdict != "INCONCLUSIVE":
            return SequentialResult(result, sides, tuple(looks), total, "the verdict is certain")
        if lost:
            return SequentialResult(result, sides, tuple(looks), total, f"no more prompts can make it pass: {lost}")
    return SequentialResult(result, sides, tuple(looks), total, "the prompts are used up")


def look_limits(total: int, block: int) -> list[int]:
    """Numbers of prompts to look at: multiples of the block from `FEWEST` on, and all of them.

    Raises:
        UsageError: the block is less than 1.
    """
    if block < 1:
        raise UsageError(f"a block of {block} prompts adds nothing; give 1 or more.")
    first = -(-FEWEST // block) * block
    return [*range(first, total, block), total]


def narrowed(suite: Suite, base: str, candidate: str) -> Suite:
    """The suite with the two checkpoints, and the reference where its velocities are used.

    Raises:
        UsageError: it has no such checkpoint, or the two are one.
    """
    names = [one.name for one in suite.checkpoints]
    for name in (base, candidate):
        if name not in names:
            raise UsageError(f"the suite has no checkpoint {name!r}.{did_you_mean(name, names)}")
    if base == candidate:
        raise UsageError(f"base and candidate are both {base!r}: name two checkpoints of the suite.")
    kept = {base, candidate}
    if suite.norm_ratio or suite.rescale is not None:
        kept.add(suite.reference_name)
    reference = suite.reference_name if suite.reference_name in kept else base
    chosen = tuple(one for one in suite.checkpoints if one.name in kept)
    return suite.model_copy(update={"checkpoints": chosen, "reference": reference})


def _added(prompts: PromptSet, limit: int, before: Sequence[str]) -> list[Prompt]:
    """The prompts that a limit adds, in the set's order."""
    known = set(before)
    return [prompt for prompt in prompts.limited(limit) if prompt.id not in known]


def _write_prompts(folder: Path, prompts: PromptSet, added: Sequence[Prompt]) -> Path:
    """A prompt file of the added prompts, with the ids from which their noise follows."""
    path = folder / "prompts.yaml"
    content = {
        "name": f"{prompts.name}-part",
        "source": prompts.source,
        "licence": prompts.licence,
        "prompts": [{"id": one.id, "text": one.text, "tags": list(one.tags)} for one in added],
    }
    data = yaml.safe_dump(content, sort_keys=False, allow_unicode=True).encode()
    if not path.is_file() or path.read_bytes() != data:
        write_atomic(path, data)
    return path


def _look(result: GateResult, run: str, generated: int) -> Look:
    verdicts = [row.verdict for row in result.rows if row.tier != "advisory"]
    return Look(
        prompts=result.prompts,
        run=run,
        generated=generated,
        passed=verdicts.count("PASS"),
        breached=verdicts.count("BREACH"),
        undecided=verdicts.count("INCONCLUSIVE"),
        verdict=result.verdict,
    )
