"""Where things lie in a store, and who may write a run.

* STORE/images/ab/abcdef....png: pictures, by key
* STORE/scores/IDENTITY/*.jsonl: scores by picture key, one folder per scorer identity
* STORE/ratios/REFERENCE/*.jsonl: velocity-norm ratios by picture key, one folder per reference
* STORE/checkpoints/WEIGHTS.json: what a checkpoint said of itself when it was loaded
* STORE/runs/NAME/: see `RunFolder`
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nbench.errors import RunLockedError, StoreError, UsageError, did_you_mean
from nbench.runs.canonical import canonical_json
from nbench.runs.files import remove_stale, store_errors, write_atomic
from nbench.runs.images import ImageStore
from nbench.runs.journal import Ledger, Record, read_folder

#: the only worker of a local run; a cluster's workers have names of their own
WORKER = "local"


class RunFolder:
    """One run on disk.

    suite.yaml and card.json are written first, journal/WORKER.jsonl while it goes on, the tables at the end, done.json
    last.

    Attributes:
        name: of the run.
        path: its folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.name = path.name
        self.suite = path / "suite.yaml"
        self.card = path / "card.json"
        self.journal = path / "journal"
        self.done = path / "done.json"
        self.report = path / "report"
        self._lock = path / "lock"

    @property
    def images(self) -> ImageStore:
        """The pictures of the store that the run lies in."""
        return ImageStore(self.path.parent.parent / "images")

    def read_json(self, path: Path) -> dict[str, Any] | None:
        """A JSON file of the run; None when it is missing.

        Raises:
            StoreError: it cannot be read.
        """
        return read_json(path)

    def records(self) -> list[Record]:
        """Every worker's journal lines.

        Raises:
            StoreError: a journal is damaged in the middle.
        """
        return read_folder(self.journal)

    def has_results(self) -> bool:
        """Whether the run has made or tabulated anything, so that its settings must stay what they are.

        A run that took every picture and score over from the store has tables and an empty journal.

        Raises:
            StoreError: a journal is damaged in the middle.
        """
        return (self.path / "samples.parquet").is_file() or bool(self.records())

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the run for this process; the lock goes with the process, however that ends.

        Raises:
            RunLockedError: another process holds it.
            StoreError: the folder cannot be made.
        """
        with store_errors(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self._lock, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            if not _try_lock(descriptor):
                holder = os.read(descriptor, 200).decode("utf-8", "replace").strip() or "another process"
                raise RunLockedError(
                    f"{holder} is working on run {self.name!r} ({self.path}); wait for it, or use another --name."
                )
            with store_errors(self._lock):
                os.ftruncate(descriptor, 0)
                os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)
            remove_stale(self.path)
            yield
        finally:
            os.close(descriptor)

    def state(self) -> str:
        """One of "complete", "running" (a process holds it) and "stopped" (it can be resumed)."""
        if self.done.is_file():
            return "complete"
        try:
            descriptor = os.open(self._lock, os.O_RDONLY)
        except OSError:
            return "stopped"
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return "running"
        finally:
            os.close(descriptor)
        return "stopped"


def _try_lock(descriptor: int) -> bool:
    """Lock within a tenth of a second: a reader of `RunFolder.state` may hold it for an instant."""
    for _ in range(5):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(0.02)
        else:
            return True
    return False


class Store:
    """A store on disk.

    Attributes:
        root: its folder, absolute.
        images: its pictures.
    """

    def __init__(self, root: Path) -> None:
        self.root = root.expanduser().resolve()
        self.images = ImageStore(self.root / "images")

    def run(self, name: str) -> RunFolder:
        """The folder of a run, which need not exist."""
        return RunFolder(self.root / "runs" / name)

    def find_run(self, name_or_path: str) -> RunFolder:
        """An existing run by name or path.

        Raises:
            UsageError: there is none.
        """
        for folder in (self.run(name_or_path), RunFolder(Path(name_or_path).expanduser().resolve())):
            if folder.card.is_file():
                return folder
        known = [path.parent.name for path in self.root.glob("runs/*/card.json")]
        hint = did_you_mean(name_or_path, known) or " It holds no run yet: start one with `nbench run`."
        raise UsageError(f"there is no run {name_or_path!r} in {self.root}.{hint}")

    def scores(self, identity: str, writer: str) -> Ledger:
        """Scores of one scorer: picture key -> {metric: value}.

        Raises:
            StoreError: a file is damaged in the middle.
        """
        return Ledger(self.root / "scores" / identity, writer)

    def ratios(self, weights: str, writer: str) -> Ledger:
        """Norm ratios to one reference: picture key -> [ratio at each step].

        Raises:
            StoreError: a file is damaged in the middle.
        """
        return Ledger(self.root / "ratios" / weights, writer)

    def facts_path(self, weights: str) -> Path:
        """Where the facts of a checkpoint lie."""
        return self.root / "checkpoints" / f"{weights}.json"


def read_json(path: Path) -> dict[str, Any] | None:
    """A JSON object; None when the file is missing.

    Raises:
        StoreError: it cannot be read.
    """
    with store_errors(path, "read"):
        if not path.is_file():
            return None
        text = path.read_text(encoding="utf-8")
    try:
        value = json.loads(text)
    except ValueError as error:
        raise StoreError(f"{path} is damaged ({error}); delete it, and run the same command again.") from error
    if not isinstance(value, dict):
        raise StoreError(f"{path} is damaged (not an object); delete it, and run the same command again.")
    return value


def write_json(path: Path, value: dict[str, Any], *, indent: int | None = None) -> None:
    """Write a JSON object atomically.

    Raises:
        StoreError: the disk refuses.
    """
    text = canonical_json(value)
    if indent is not None:
        text = json.dumps(value, indent=indent, allow_nan=False)
    write_atomic(path, (text + "\n").encode("utf-8"))
