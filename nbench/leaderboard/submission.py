"""Submissions: one checkpoint of a finished run as a folder of tables, card and thumbnails, with the hash of each file.

    SUBMISSION/
      submission.json     who it is, and which run it comes from
      card.json           the run's card, cut to this checkpoint
      samples.parquet scores.parquet sets.parquet norms.parquet      the run's tables, cut likewise
      gallery/KEY.webp    thumbnails of a few prompts, for the board's pictures
      manifest.json       sha256 of every other file

A submission comes from strangers: file names are held to this list, tables to their schemas, pictures are decoded and
drawn anew, and every text is escaped where it is shown.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, ValidationError, field_validator

from nbench.errors import UsageError, did_you_mean
from nbench.leaderboard.checks import refusal
from nbench.leaderboard.definition import About, usable_name
from nbench.leaderboard.submitted_tables import check_card, read_tables
from nbench.runs.card import card_hash
from nbench.runs.files import store_errors, write_atomic
from nbench.runs.store import RunFolder, read_json
from nbench.runs.tables import TABLES, RunTables
from nbench.yaml_files import first_fault

if TYPE_CHECKING:
    import pyarrow as pa

INFO, CARD, MANIFEST = "submission.json", "card.json", "manifest.json"
_GALLERY = re.compile(r"gallery/[0-9a-f]{64}\.webp")
_LARGEST = 512 * 2**20  # bytes of one file
_MOST_PICTURES = 2000


class SubmissionInfo(About):
    """submission.json.

    Attributes:
        format: of the folder.
        name: on a board.
        checkpoint: in the tables.
        run: name of the run that it comes from.
        card: hash of that run's whole card.
        tables: sha256 of that run's tables, by file.
    """

    format: Literal[1] = 1
    name: str
    checkpoint: str
    run: str
    card: str = Field(pattern=r"[0-9a-f]{64}")
    tables: dict[str, str] = Field(default_factory=dict)

    _name = field_validator("name")(usable_name)


def make_submission(
    run: RunTables, checkpoint: str, out: Path, *, name: str = "", about: Mapping[str, Any] | None = None, gallery: int
) -> list[Path]:
    """Write a submission of one checkpoint.

    Args:
        run: finished.
        checkpoint: of it.
        out: folder, new or empty.
        name: on boards; the checkpoint's without it.
        about: fields of `About`.
        gallery: prompts whose pictures go with it.

    Returns:
        The files, the manifest last.

    Raises:
        UsageError: the run is not complete, has no such checkpoint, or `out` holds something.
        StoreError: the disk refuses.
    """
    if checkpoint not in run.card["checkpoints"]:
        known = run.card["checkpoints"]
        raise UsageError(f"run {run.folder.name!r} has no checkpoint {checkpoint!r}.{did_you_mean(checkpoint, known)}")
    if run.folder.state() != "complete":
        raise UsageError(f"run {run.folder.name!r} is not complete: finish it with `nbench run {run.folder.suite}`.")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"{out} exists already: give a new or empty folder.")
    info = _info(
        {
            "name": name or checkpoint,
            "checkpoint": checkpoint,
            "run": run.folder.name,
            "card": card_hash(run.card),
            "tables": dict(run.done.get("tables", {})),
            **(about or {}),
        },
        "the submission",
    )
    contents = {INFO: _json(info.model_dump(mode="json")), CARD: _json(_cut_card(run.card, checkpoint))}
    for table in TABLES:
        contents[f"{table}.parquet"] = _parquet(_cut_table(getattr(run, table), checkpoint))
    contents.update(_thumbnails(run, checkpoint, gallery))
    contents[MANIFEST] = _json({file: hashlib.sha256(data).hexdigest() for file, data in sorted(contents.items())})
    for file, data in contents.items():
        write_atomic(out / file, data)
    return [out / file for file in contents]


def load_submission(folder: Path) -> tuple[SubmissionInfo, RunTables]:
    """Read a submission, every byte of it checked against its manifest.

    Raises:
        UsageError: with every fault of its files; whether it fits a board is `check_entry`'s part.
        StoreError: a file cannot be read.
    """
    what = f"submission {folder}"
    faults = check_files(folder)
    if faults:
        raise UsageError(refusal(f"{what} is not sound", faults))
    info = _info(read_json(folder / INFO) or {}, what)
    card = read_json(folder / CARD) or {}
    check_card(card, info.checkpoint, what)
    tables = read_tables(folder, info.checkpoint)
    return info, RunTables(folder=RunFolder(folder), card=card, done={"tables": info.tables}, speed={}, **tables)


def check_files(folder: Path) -> list[str]:
    """What is wrong with a submission's files: missing, strange, or other than the manifest says."""
    manifest = folder / MANIFEST
    if not manifest.is_file():
        return [f"there is no {MANIFEST}: `nbench leaderboard submit` writes one"]
    with store_errors(manifest, "read"):
        try:
            hashes = json.loads(manifest.read_text(encoding="utf-8"))
        except ValueError:
            return [f"{MANIFEST} is not JSON"]
    if not isinstance(hashes, dict):
        return [f"{MANIFEST} is not an object of file names and hashes"]
    needed = {INFO, CARD, *(f"{table}.parquet" for table in TABLES)}
    listed = set(hashes)
    faults = [f"{name} is missing from {MANIFEST}" for name in sorted(needed - listed)]
    faults += [f"{name!r} is no file of a submission" for name in sorted(listed - needed) if not _is_gallery(name)]
    if len(listed) > len(needed) + _MOST_PICTURES:
        faults.append(f"it holds more than {_MOST_PICTURES} pictures")
    if faults:
        return faults
    there = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if not path.is_dir()}
    faults += [f"{name} is not in {MANIFEST}" for name in sorted(there.keys() - listed - {MANIFEST})]
    for name in sorted(listed):
        path = folder / name
        with store_errors(path, "read"):
            if any(part.is_symlink() for part in (path, path.parent)) or not path.is_file():
                faults.append(f"{name} is missing, or is no plain file")
            elif path.stat().st_size > _LARGEST:
                faults.append(f"{name} is larger than {_LARGEST // 2**20} MiB")
            elif hashlib.sha256(path.read_bytes()).hexdigest() != hashes[name]:
                faults.append(f"{name} is not what {MANIFEST} says: its sha256 differs")
    return faults


def _is_gallery(name: object) -> bool:
    return isinstance(name, str) and _GALLERY.fullmatch(name) is not None


def _info(content: Mapping[str, Any], where: str) -> SubmissionInfo:
    try:
        return SubmissionInfo.model_validate(dict(content))
    except ValidationError as error:
        raise UsageError(first_fault(error, where, lambda _: SubmissionInfo.model_fields)) from error


def _cut_card(card: Mapping[str, Any], checkpoint: str) -> dict[str, Any]:
    return {**card, "checkpoints": {checkpoint: card["checkpoints"][checkpoint]}}


def _cut_table(table: pa.Table, checkpoint: str) -> pa.Table:
    import pyarrow.compute as pc

    return table.filter(pc.equal(table["checkpoint"], checkpoint))


def _parquet(table: pa.Table) -> bytes:
    import io

    import pyarrow.parquet as pq

    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    return buffer.getvalue()


def _thumbnails(run: RunTables, checkpoint: str, prompts: int) -> dict[str, bytes]:
    from nbench.leaderboard.gallery import shown_prompts
    from nbench.report.page_thumbnails import thumbnail

    rows = run.samples.select(["checkpoint", "prompt_id", "prompt", "tags", "seed", "key", "path"]).to_pylist()
    mine = [row for row in rows if row["checkpoint"] == checkpoint]
    texts = {row["prompt_id"]: row["prompt"] for row in mine}
    tags = {row["prompt_id"]: tuple(row["tags"]) for row in mine}
    shown = set(shown_prompts(texts, tags, prompts))
    found = {}
    for row in mine:
        if row["prompt_id"] in shown and row["seed"] == 0 and row["path"] is not None:
            picture = run.folder.images.read(row["key"])
            if picture is not None:
                found[f"gallery/{row['key']}.webp"] = thumbnail(picture)
    return found


def _json(value: object) -> bytes:
    return (json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False) + "\n").encode()
