"""A run from start to end: plan, generation stage, scoring stage, tables. Again, it does only what is missing."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import nbench
from nbench.errors import RunInterruptedError, RunLockedError, StoreError
from nbench.runs.backend import Backend, Models, default_backend
from nbench.runs.canonical import canonical_json, digest
from nbench.runs.card import card_hash, check_same_run, make_card
from nbench.runs.facts import Speed, read_facts, speed_name, write_facts
from nbench.runs.files import store_errors, sync_folder, write_atomic
from nbench.runs.generate import GenerationStage
from nbench.runs.images import StoredPicture
from nbench.runs.journal import Journal, Ledger, failures
from nbench.runs.observer import Observer, Quiet
from nbench.runs.plan import make_cells, plan_batches, reference_identity
from nbench.runs.resolve import Resolved, resolve
from nbench.runs.score import ScoringStage, missing_scores
from nbench.runs.sets import SetScoringStage, make_sets, missing_sets
from nbench.runs.store import WORKER, RunFolder, Store, write_json
from nbench.runs.suite import Suite
from nbench.runs.tables import TABLES, Outcome, write_tables
from nbench.scoring.registry import card_identity

#: a picture that is unsound when it is to be scored is made again, but not for ever
_PASSES = 3


@dataclass(frozen=True)
class RunResult:
    """What one call of `execute` did.

    Attributes:
        folder: of the run.
        cells: pictures that the run consists of.
        generated: pictures made by this call.
        scored: scores given by this call.
        failed: cells without a picture.
        score_failures: scores without a value, of pictures that exist.
        changed: whether this call wrote the tables anew.
        seconds: wall time of the call.
    """

    folder: RunFolder
    cells: int
    generated: int
    scored: int
    failed: int
    score_failures: int
    changed: bool
    seconds: float


def execute(
    suite: Suite,
    store: Store,
    *,
    backend: Backend | None = None,
    observer: Observer | None = None,
    retry_failed: bool = False,
) -> RunResult:
    """Run a suite to its end, taking over all that the store holds.

    Args:
        suite: what is asked.
        store: where everything goes.
        backend: the rest of nbench; tests give fakes.
        observer: hears of progress.
        retry_failed: try cells and scores again that failed in this run before.

    Raises:
        UsageError: the suite names something that is missing or wrong.
        CardMismatchError: a run of this name was made with other settings.
        RunLockedError: another process is working on the run.
        StoreError: the store cannot be read or written.
        RunInterruptedError: the user pressed Ctrl-C; the same command goes on.
    """
    started = time.perf_counter()
    backend, observer = backend or default_backend(), observer or Quiet()
    run = store.run(suite.run_name)
    try:
        if run.path.is_dir() and run.state() == "running":
            raise RunLockedError(
                f"another process is working on run {run.name!r} ({run.path}); wait for it, or use another --name."
            )
        models = Models(backend)
        resolved = resolve(suite, store, backend, models)
        with run.locked():
            attempt = _Attempt(resolved, store, run, models, observer, retry_failed)
            return attempt.run(started)
    except KeyboardInterrupt:
        raise RunInterruptedError(
            f"run {run.name!r} was stopped; what is finished is kept. Go on with the same command, or with "
            f"`nbench run {run.suite}`."
        ) from None


class _Attempt:
    """One process's work on a locked run."""

    def __init__(
        self,
        resolved: Resolved,
        store: Store,
        run: RunFolder,
        models: Models,
        observer: Observer,
        retry_failed: bool,
    ) -> None:
        self.resolved = resolved
        self.store = store
        self.folder = run
        self.models = models
        self.observer = observer
        self.retry_failed = retry_failed
        self.cells = make_cells(resolved)
        self.keys = list(dict.fromkeys(cell.key for cell in self.cells))
        self.sets = make_sets(self.cells)
        self.identities = {name: card_identity(scorer.card) for name, scorer in resolved.scorers.items()}
        self.generated = self.scored = 0
        self._reported = 0
        self._undone = False

    def run(self, started: float) -> RunResult:
        card = make_card(self.resolved)
        self._settle(card)
        writer = f"{self.folder.name}--{WORKER}"
        with ExitStack() as stack:
            ratios = self.store.ratios(reference_identity(self.resolved), writer)
            stack.callback(ratios.close)
            scores = {name: self.store.scores(identity, writer) for name, identity in self.identities.items()}
            for ledger in scores.values():
                stack.callback(ledger.close)
            self.store.images.remove_stale()
            outcome = self._work(ratios, scores)
            failed = sum(cell.key not in outcome.stored for cell in self.cells)
            score_failures = sum(
                cell.key in outcome.stored and cell.key not in outcome.scores[name]
                for name in self.resolved.picture_scorers
                for cell in self.cells
            ) + sum(
                not one.missing(outcome.stored) and one.key not in outcome.scores[name]
                for name in self.resolved.set_scorers
                for one in self.sets
            )
            self._finish(card, outcome, failed, score_failures)
        return RunResult(
            folder=self.folder,
            cells=len(self.cells),
            generated=self.generated,
            scored=self.scored,
            failed=failed,
            score_failures=score_failures,
            changed=self._undone,
            seconds=time.perf_counter() - started,
        )

    def _settle(self, card: dict[str, Any]) -> None:
        """Write what the run is, or see that it still is what it was. A run of which nothing is made may change."""
        old = self.folder.read_json(self.folder.card)
        if old is not None and self.folder.has_results():
            check_same_run(self.folder.name, old, card)
        if old is None or canonical_json(old) != canonical_json(card) or not self.folder.suite.is_file():
            self._undo()
            write_atomic(self.folder.suite, self.resolved.suite.to_yaml().encode("utf-8"))
            write_json(self.folder.card, card, indent=1)

    def _undo(self) -> None:
        """From here on the run is not complete, until its tables are written again."""
        if not self._undone:
            with store_errors(self.folder.done):
                self.folder.done.unlink(missing_ok=True)
                sync_folder(self.folder.path)
            self._undone = True

    def _work(self, ratios: Ledger, scores: Mapping[str, Ledger]) -> Outcome:
        """Generate and score until nothing is missing."""
        for _ in range(_PASSES):
            picture_failures, score_failures = failures(self.folder.records(), self.identities)
            retry = self.retry_failed
            self.retry_failed = False  # once: a cell that fails again stays failed
            stored = self._find(self.keys)
            stored.update(self._generate(stored, ratios, {} if retry else picture_failures))
            skipped = {name: {} if retry else score_failures[name] for name in scores}
            lost = self._score(stored, scores, skipped)
            if not lost:
                picture_failures, score_failures = failures(self.folder.records(), self.identities)
                return Outcome(
                    self.resolved, self.cells, self.sets, stored, ratios, scores, picture_failures, score_failures
                )
        raise StoreError(
            f"pictures in {self.store.images.folder} keep getting lost; check the disk, then run the command again."
        )

    def _find(self, keys: Sequence[str]) -> dict[str, StoredPicture]:
        found = self.store.images.find(keys)
        self._report_damage()
        return found

    def _report_damage(self) -> None:
        for corrupt in self.store.images.corrupt[self._reported :]:
            self.observer.note(
                f"The stored picture {corrupt.key[:12]}... is not used: {corrupt.reason}. It was moved to "
                f"{corrupt.moved_to} and is made again."
            )
        self._reported = len(self.store.images.corrupt)

    def _generate(
        self, stored: Mapping[str, StoredPicture], ratios: Ledger, failed: Mapping[str, str]
    ) -> dict[str, StoredPicture]:
        batches = plan_batches(self.resolved, self.cells, stored, ratios, failed)
        todo = sum(len(batch.write | batch.ratios) for batch in batches)
        self.observer.stage("generate", len(self.keys), len(self.keys) - todo)
        if not batches:
            return {}
        self._undo()
        with self._journal() as journal:
            stage = GenerationStage(self.resolved, self.models, self.store.images, ratios, journal, self.observer)
            stage.run(batches)
        missing = [key for batch in batches for key in batch.write]
        made = self._find(missing)
        self.generated += len(made)
        self._learn_speed(made)
        return made

    def _score(
        self, stored: Mapping[str, StoredPicture], scores: Mapping[str, Ledger], failed: Mapping[str, Mapping[str, str]]
    ) -> bool:
        """Score what is missing; returns whether a picture was lost on the way."""
        pictures, sets = self.resolved.picture_scorers, self.resolved.set_scorers
        groups = missing_scores(pictures, scores, self.cells, stored, failed)
        set_batches = missing_sets(self.sets, {name: scores[name] for name in sets}, stored, failed)
        todo = sum(len(keys) for group in groups for batch in group for keys in batch.write.values())
        todo += sum(len(found) for found in set_batches.values())
        total = len(pictures) * len(stored) + len(sets) * sum(not one.missing(stored) for one in self.sets)
        self.observer.stage("score", total, total - todo)
        if not todo:
            return False
        self.models.close()  # scorers may need the device
        self._undo()
        known = sum(len(ledger) for ledger in scores.values())
        with self._journal() as journal:
            arguments = (scores, self.store.images, journal, self.observer)
            complete = ScoringStage(pictures, *arguments).run(groups)
            complete = SetScoringStage(sets, *arguments).run(set_batches) and complete
        served = sys.modules.get("nbench.scoring.judge.served")
        if served is not None:  # a judge was asked, and may have started a server
            served.stop_servers()
        self.scored += sum(len(ledger) for ledger in scores.values()) - known
        self._report_damage()
        return not complete

    @contextmanager
    def _journal(self) -> Iterator[Journal]:
        with Journal(self.folder.journal / f"{WORKER}.jsonl") as journal:
            if journal.was_torn:
                self.observer.note(f"The last line of {journal.path} was cut short; what it recorded is done again.")
            yield journal

    def _learn_speed(self, made: Mapping[str, StoredPicture]) -> None:
        """Keep how fast each checkpoint was, for the estimates of later dry runs."""
        resolved = self.resolved
        lines = [record for record in self.folder.records() if record["kind"] == "image" and record["key"] in made]
        for checkpoint in resolved.checkpoints:
            mine = [record for record in lines if record["checkpoint"] == checkpoint.name]
            facts = read_facts(self.store, checkpoint.weights)
            if not mine or facts is None:
                continue
            speed = Speed(
                step_seconds=sum(record["seconds"] for record in mine) / sum(record["steps"] for record in mine),
                picture_bytes=sum(made[record["key"]].size for record in mine) / len(mine),
            )
            place = speed_name(resolved.device, resolved.dtype, resolved.height, resolved.width)
            write_facts(self.store, checkpoint.weights, replace(facts, speed={**facts.speed, place: speed}))

    def _finish(self, card: Mapping[str, Any], outcome: Outcome, failed: int, score_failures: int) -> None:
        """Write the tables, then done.json; nothing when both stand from before.

        They are written again where tags of prompts changed, or another run of the store made since what failed here.
        """
        tags = digest([list(prompt.tags) for prompt in outcome.resolved.prompts])  # in the tables, not on the card
        found = {"card": card_hash(card), "tags": tags, "failed": failed, "score_failures": score_failures}
        done = self.folder.read_json(self.folder.done) or {}
        whole = all((self.folder.path / f"{name}.parquet").is_file() for name in TABLES)
        if whole and found == {key: done.get(key) for key in found}:
            return
        self._undo()
        hashes = write_tables(self.folder, outcome)
        write_json(
            self.folder.done,
            {
                **found,
                "nbench": nbench.__version__,
                "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
                "cells": len(self.cells),
                "tables": hashes,
            },
            indent=1,
        )
