"""The first checkpoint of a training run that breaches a policy, found with few evaluations.

The checkpoints are taken in the order given, and a breach is expected to stay: what comes after the first breach
breaches too. So halving the unknown stretch finds it. What the store holds already costs nothing and is judged first.
A checkpoint that stays inconclusive is reported as such: the answer then is a range, never a guess.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from nbench.compare import Side
from nbench.errors import UsageError, did_you_mean
from nbench.gates.evaluate import GateResult, evaluate_gate
from nbench.gates.policy import Policy
from nbench.runs.backend import Backend
from nbench.runs.estimate import estimate
from nbench.runs.execute import execute
from nbench.runs.observer import Observer
from nbench.runs.store import Store
from nbench.runs.suite import Checkpoint, Suite
from nbench.runs.tables import load_run
from nbench.stats.noninferiority import Verdict


@dataclass(frozen=True)
class Found:
    """Where a search ended.

    Attributes:
        first: index of the first checkpoint that is shown to breach; None where none is.
        last_pass: index of the last one before it that passed; None where none did.
        between: indices between the two, all inconclusive: the breach may begin at any of them.
        verdicts: of every checkpoint that was judged.
        order: in which they were judged.
        orderly: whether no checkpoint passed after one that breached.
    """

    first: int | None
    last_pass: int | None
    between: tuple[int, ...]
    verdicts: Mapping[int, Verdict]
    order: tuple[int, ...]
    orderly: bool

    @property
    def exit_code(self) -> int:
        """1 where a breach was found, 2 where the last checkpoint is not shown to pass, 0 otherwise."""
        if self.first is not None:
            return 1
        return 2 if self.between else 0


def search(count: int, judge: Callable[[int], Verdict], free: Collection[int] = ()) -> Found:
    """Find the first of `count` checkpoints that breaches.

    Args:
        count: how many, in order.
        judge: index -> verdict; called once at most for each.
        free: indices that cost nothing, which are judged first.

    Raises:
        ValueError: there is none.
    """
    if count < 1:
        raise ValueError("there is no checkpoint to judge")
    verdicts: dict[int, Verdict] = {}

    def look(i: int) -> None:
        verdicts[i] = judge(i)

    for i in sorted(free):
        look(i)
    while True:
        low, high = _bracket(count, verdicts)
        unknown = [i for i in range(low + 1, high) if i not in verdicts]
        if not unknown:
            break
        if high == count and count - 1 in unknown:
            look(count - 1)  # without a breach at the end there is nothing to halve
        else:
            middle = (low + high) / 2
            look(min(unknown, key=lambda i: (abs(i - middle), i)))
    low, high = _bracket(count, verdicts)
    breaches = [i for i, verdict in verdicts.items() if verdict == "BREACH"]
    passes = [i for i, verdict in verdicts.items() if verdict == "PASS"]
    return Found(
        first=high if high < count else None,
        last_pass=low if low >= 0 else None,
        between=tuple(range(low + 1, high)),
        verdicts=dict(sorted(verdicts.items())),
        order=tuple(verdicts),
        orderly=not breaches or not passes or max(passes) < min(breaches),
    )


def _bracket(count: int, verdicts: Mapping[int, Verdict]) -> tuple[int, int]:
    """(last pass before the first breach, first breach); -1 and `count` where there is none."""
    high = min((i for i, verdict in verdicts.items() if verdict == "BREACH"), default=count)
    return max((i for i, verdict in verdicts.items() if verdict == "PASS" and i < high), default=-1), high


@dataclass(frozen=True)
class Bisection:
    """A search over checkpoints.

    Attributes:
        names: of the checkpoints, in order.
        found: where it ended.
        results: the gate's, by index.
        free: indices whose pictures and scores were all in the store.
        runs: names of the runs, by index.
    """

    names: tuple[str, ...]
    found: Found
    results: Mapping[int, GateResult]
    free: tuple[int, ...]
    runs: Mapping[int, str]


def bisect_checkpoints(
    checkpoints: Sequence[Checkpoint],
    policy: Policy,
    suite: Suite,
    base: str,
    store: Store,
    *,
    backend: Backend | None = None,
    observer: Observer | None = None,
    judged: Callable[[str, GateResult], None] | None = None,
) -> Bisection:
    """Find the first of some checkpoints that breaches a policy against a base.

    Each one that is judged gets a run of its own, of the suite's settings with the base and itself; the store gives
    what it holds, so the base is generated once.

    Args:
        checkpoints: in the order of training.
        policy: of the gate.
        suite: prompts, steps, seeds and scorers; its checkpoints are left out, except the base.
        base: name of one of the suite's checkpoints.
        store: of everything.
        backend: for tests.
        observer: hears of progress.
        judged: hears of every verdict.

    Raises:
        UsageError: names repeat or are unknown, or something is missing.
        CardMismatchError: a checkpoint is not comparable with the base.
    """
    names = [one.name for one in checkpoints]
    known = {one.name: one for one in suite.checkpoints}
    if base not in known:
        raise UsageError(f"--base {base}: the suite has no such checkpoint.{did_you_mean(base, known)}")
    twice = sorted({name for name in (base, *names) if (base, *names).count(name) > 1})
    if twice:
        raise UsageError(f"checkpoint {twice[0]!r} is there twice: give each its own name.")
    suites = [
        suite.model_copy(update={"name": "", "checkpoints": (known[base], one), "reference": ""}) for one in checkpoints
    ]
    free = tuple(i for i, one in enumerate(suites) if _is_free(one, store, backend))
    results: dict[int, GateResult] = {}
    runs: dict[int, str] = {}

    def judge(i: int) -> Verdict:
        done = execute(suites[i], store, backend=backend, observer=observer)
        run = load_run(done.folder)
        results[i] = evaluate_gate(policy, Side(run, base), Side(run, names[i]))
        runs[i] = run.folder.name
        if judged is not None:
            judged(names[i], results[i])
        return results[i].verdict

    found = search(len(names), judge, free)
    return Bisection(tuple(names), found, results, free, runs)


def _is_free(suite: Suite, store: Store, backend: Backend | None) -> bool:
    """Whether nothing of a run is left to generate or score."""
    cost = estimate(suite, store, backend=backend)
    return not cost.scores and not any(part.missing or part.ratios for part in cost.checkpoints)
