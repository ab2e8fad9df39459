"""Append-only JSON lines, fsynced: what a killed process had finished.

Each worker appends to a file of its own, so no line is ever written by two. A batch of lines is one write and one
fsync. A torn last line (killed while writing) is tolerated when reading and cut off before the next append; what it
recorded is done again. A line that cannot be read anywhere else means damage, and is an error that says where.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from nbench.errors import StoreError
from nbench.runs.canonical import canonical_json
from nbench.runs.files import store_errors, sync_folder, write_all

Record = dict[str, Any]


@dataclass(frozen=True)
class JournalContent:
    """What a journal file holds.

    Attributes:
        records: the readable lines, in order.
        torn: whether a last line was cut short.
        end: bytes up to and including the last readable line.
    """

    records: tuple[Record, ...]
    torn: bool
    end: int


def read_journal(path: Path) -> JournalContent:
    """Read one file; a missing one is empty.

    Raises:
        StoreError: a line other than the last cannot be read, or the file cannot.
    """
    with store_errors(path, "read"):
        data = path.read_bytes() if path.exists() else b""
    records: list[Record] = []
    end = 0
    lines = data.split(b"\n")
    complete, rest = lines[:-1], lines[-1]
    for number, line in enumerate(complete, start=1):
        record = _parse(line)
        if record is None:
            if number == len(complete) and not rest:
                return JournalContent(tuple(records), torn=True, end=end)
            raise StoreError(
                f"{path}, line {number}: the line is damaged; delete it, and run the same command again (what it "
                "recorded is made again)."
            )
        records.append(record)
        end += len(line) + 1
    return JournalContent(tuple(records), torn=bool(rest), end=end)


def _parse(line: bytes) -> Record | None:
    try:
        record = json.loads(line)
    except ValueError:  # also UnicodeDecodeError
        return None
    return record if isinstance(record, dict) else None


class Journal:
    """One worker's file, open for appending. Use it as a context manager.

    Attributes:
        path: of the file.
        was_torn: whether opening it cut off a torn last line.
    """

    def __init__(self, path: Path) -> None:
        """Open `path`, made when missing, and cut off a torn last line.

        Raises:
            StoreError: the file is damaged in the middle, or cannot be written.
        """
        self.path = path
        content = read_journal(path)
        self.was_torn = content.torn
        with store_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT, 0o644)
            self._end = content.end
            if content.torn:
                os.ftruncate(self._descriptor, self._end)
                os.fsync(self._descriptor)
            os.lseek(self._descriptor, self._end, os.SEEK_SET)
            sync_folder(path.parent)

    def append(self, records: Iterable[Mapping[str, Any]]) -> None:
        """Write one line per record, durable when this returns.

        Raises:
            StoreError: the disk refuses. The file ends where it ended before.
        """
        data = "".join(canonical_json(record) + "\n" for record in records).encode("ascii")
        if not data:
            return
        with store_errors(self.path):
            try:
                write_all(self._descriptor, data)
                os.fsync(self._descriptor)
            except BaseException:
                # Half a batch of lines must not stand before a later one.
                os.ftruncate(self._descriptor, self._end)
                os.lseek(self._descriptor, self._end, os.SEEK_SET)
                raise
        self._end += len(data)

    def close(self) -> None:
        """Close the file; appending is over."""
        os.close(self._descriptor)

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def read_folder(folder: Path) -> list[Record]:
    """The records of every worker's file, in the order of file names.

    Raises:
        StoreError: as `read_journal`.
    """
    if not folder.is_dir():
        return []
    return [record for path in sorted(folder.glob("*.jsonl")) for record in read_journal(path).records]


def failures(
    records: Sequence[Record], identities: Mapping[str, str]
) -> tuple[dict[str, str], dict[str, dict[str, str]]]:
    """Reasons by key: of pictures, and of scores by scorer name. A picture made later overrides its failure."""
    pictures: dict[str, str] = {}
    scores: dict[str, dict[str, str]] = {identity: {} for identity in identities.values()}
    for record in records:
        if record["kind"] == "image":
            pictures.pop(record["key"], None)
        elif record["kind"] == "failure" and record["stage"] == "generate":
            pictures[record["key"]] = record["reason"]
        elif record["kind"] == "failure" and record["scorer"] in scores:
            scores[record["scorer"]][record["key"]] = record["reason"]
    return pictures, {name: scores[identity] for name, identity in identities.items()}


class Ledger:
    """Values by picture key that all runs of a store share: scores of one scorer, ratios to one reference.

    A folder of journals, one per writer. The first value of a key stands; values are never overwritten.
    """

    def __init__(self, folder: Path, writer: str) -> None:
        """Read what every writer left in `folder`; nothing is written before `add`.

        Args:
            folder: of the ledger.
            writer: file stem of this process, unique among processes that live at the same time.

        Raises:
            StoreError: as `read_journal`.
        """
        self._path = folder / f"{writer}.jsonl"
        self._journal: Journal | None = None
        self._values: dict[str, Any] = {}
        for record in read_folder(folder):
            self._values.setdefault(record["key"], record["value"])

    def __contains__(self, key: object) -> bool:
        return key in self._values

    def __len__(self) -> int:
        return len(self._values)

    def get(self, key: str) -> Any:
        """The value of `key`, or None."""
        return self._values.get(key)

    def add(self, values: Sequence[tuple[str, Any]]) -> None:
        """Record values of keys that have none yet, durable when this returns.

        Raises:
            StoreError: the disk refuses.
        """
        new = [(key, value) for key, value in values if key not in self._values]
        if not new:
            return
        if self._journal is None:
            self._journal = Journal(self._path)
        self._journal.append({"key": key, "value": value} for key, value in new)
        self._values.update(new)

    def close(self) -> None:
        """Close the file that `add` opened."""
        if self._journal is not None:
            self._journal.close()
            self._journal = None
