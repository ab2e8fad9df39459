"""Readers of prompt files: each format into rows, with the place of every row for messages.

Formats: `.yaml` / `.yml` (prompts with source and licence, or an entry that names a public data set), `.jsonl`
(objects, or plain strings), `.csv` and `.tsv` (with a header), `.parquet`, `.txt` (one prompt a line).
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nbench.errors import PromptSetError, did_you_mean

TEXT_COLUMNS = ("text", "prompt", "prompts", "caption")
_PROMPT_KEYS = ("id", "text", "tags")
_SET_KEYS = ("name", "description", "source", "licence", "count", "hash")


@dataclass(frozen=True)
class RawRow:
    """A prompt as read: `id` is None when the file gives none; `where` says which line or entry it is."""

    id: str | None
    text: str
    tags: tuple[str, ...]
    where: str


@dataclass(frozen=True)
class RawSet:
    """A prompt set as read, not yet checked as a whole.

    Attributes:
        count: how many prompts are expected; None when nobody says.
        hash: the expected content hash; None when nobody says.
    """

    name: str
    rows: list[RawRow]
    source: str
    licence: str
    description: str = ""
    count: int | None = None
    hash: str | None = None


def read_file(path: Path) -> RawSet:
    """Read `path` by its suffix.

    Raises:
        PromptSetError: it cannot be read, or a row is malformed.
    """
    try:
        return _READERS[path.suffix.lower()](path)
    except (OSError, UnicodeDecodeError) as error:
        raise PromptSetError(f"cannot read the prompt file {path}: {error}; it must be readable UTF-8.") from error


def make_row(identity: object, text: object, tags: object, where: str) -> RawRow:
    """One row, verified. `identity` may be None; `tags` a list, a string of tags parted by , or ;, or None.

    Raises:
        PromptSetError: the text is missing or empty, or a field has the wrong type.
    """
    if not isinstance(text, str):
        what = "has no text" if text is None else f"has the text {text!r}, which is not a string; put it in quotes"
        raise PromptSetError(f"{where} {what}.")
    if not text.strip():
        raise PromptSetError(f"{where} has an empty text; write the prompt or remove the entry.")
    if isinstance(identity, int) and not isinstance(identity, bool):
        identity = str(identity)
    if identity == "":
        identity = None
    if identity is not None and not (isinstance(identity, str) and identity.strip() and identity.isprintable()):
        raise PromptSetError(f"{where} has the id {identity!r}; an id must be a printable string or a whole number.")
    return RawRow(identity.strip() if isinstance(identity, str) else None, text.strip(), make_tags(tags, where), where)


def make_tags(tags: object, where: str) -> tuple[str, ...]:
    """Tags as a tuple without repetitions, in their order."""
    if tags is None:
        return ()
    if isinstance(tags, str):
        tags = tags.replace(";", ",").split(",")
    if not isinstance(tags, list | tuple) or not all(isinstance(tag, str | int) for tag in tags):
        raise PromptSetError(f"{where} has the tags {tags!r}; tags must be a list of strings.")
    return tuple(dict.fromkeys(str(tag).strip() for tag in tags if str(tag).strip()))


def check_keys(mapping: object, allowed: Iterable[str], where: str) -> Mapping[str, Any]:
    """`mapping` itself, when it is one and has no other keys than `allowed`.

    Raises:
        PromptSetError: it is not, or it has; the message names the nearest key.
    """
    if not isinstance(mapping, Mapping):
        raise PromptSetError(f"{where} must be a mapping, not {type(mapping).__name__}.")
    known = tuple(allowed)
    for key in mapping:
        if key not in known:
            raise PromptSetError(f"{where} has the unknown key {str(key)!r}.{did_you_mean(str(key), known)}")
    return mapping


def read_yaml(path: Path) -> Any:
    """The content of a YAML file (safe loading).

    Raises:
        PromptSetError: it is not valid YAML.
    """
    import yaml

    try:
        return yaml.load(path.read_text(encoding="utf-8"), getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except yaml.YAMLError as error:
        raise PromptSetError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error


def _read_yaml(path: Path) -> RawSet:
    content = read_yaml(path)
    if isinstance(content, Mapping) and "dataset" in content:
        from nbench.prompt_public import read_entry

        return read_entry(content, path)
    top = check_keys(content, (*_SET_KEYS, "prompts"), str(path))
    for key in ("source", "licence"):
        if not isinstance(top.get(key), str) or not top[key].strip():
            raise PromptSetError(f"{path} names no {key}; add a line `{key}: ...` that says it.")
    entries = top.get("prompts")
    if entries is not None and not isinstance(entries, list):
        raise PromptSetError(f"`prompts` in {path} must be a list.")
    rows = []
    for n, entry in enumerate(entries or [], start=1):
        where = f"prompt {n} of {path}"
        entry = check_keys(entry, _PROMPT_KEYS, where)
        if "id" in entry:
            where = f"prompt {entry['id']!r} (number {n}) of {path}"
        rows.append(make_row(entry.get("id"), entry.get("text"), entry.get("tags"), where))
    return RawSet(rows=rows, **set_fields(top, path))


def set_fields(top: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """The fields of a `RawSet` that a YAML file gives beside its prompts."""
    count, content_hash = top.get("count"), top.get("hash")
    if count is not None and (not isinstance(count, int) or isinstance(count, bool)):
        raise PromptSetError(f"`count` in {path} must be a whole number, not {count!r}.")
    if content_hash is not None and not isinstance(content_hash, str):
        raise PromptSetError(f"`hash` in {path} must be a string of hex digits in quotes, not {content_hash!r}.")
    return {
        "name": str(top.get("name") or path.stem),
        "source": str(top["source"]).strip(),
        "licence": str(top["licence"]).strip(),
        "description": str(top.get("description") or "").strip(),
        "count": count,
        "hash": content_hash,
    }


def _local(path: Path, rows: list[RawRow]) -> RawSet:
    return RawSet(name=path.stem, rows=rows, source=path.name, licence="user-supplied")


def _read_txt(path: Path) -> RawSet:
    lines = path.read_text(encoding="utf-8-sig").splitlines()
    return _local(
        path, [make_row(None, line, None, f"line {n} of {path}") for n, line in enumerate(lines, 1) if line.strip()]
    )


def _read_jsonl(path: Path) -> RawSet:
    rows = []
    for n, line in enumerate(path.read_text(encoding="utf-8-sig").splitlines(), start=1):
        where = f"line {n} of {path}"
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
        except json.JSONDecodeError as error:
            raise PromptSetError(f"{where} is not valid JSON: {error}.") from error
        if isinstance(entry, str):
            entry = {"text": entry}
        if not isinstance(entry, dict):
            raise PromptSetError(f"{where} is neither an object nor a string.")
        rows.append(_from_mapping(entry, where))
    return _local(path, rows)


def _read_csv(path: Path) -> RawSet:
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file, delimiter="\t" if path.suffix.lower() == ".tsv" else ",")
        if reader.fieldnames is not None and _text_column(reader.fieldnames) is None:
            raise _no_text_column(f"the first line of {path}", reader.fieldnames)
        rows = [_from_mapping(entry, f"line {reader.line_num} of {path}") for entry in reader]
    return _local(path, rows)


def _read_parquet(path: Path) -> RawSet:
    import pyarrow
    import pyarrow.parquet

    try:
        names = pyarrow.parquet.read_schema(path).names
        wanted = [name for name in names if name.lower() in ("id", "tags") or name == _text_column(names)]
        entries = pyarrow.parquet.read_table(path, columns=wanted).to_pylist()
    except pyarrow.ArrowException as error:
        raise PromptSetError(f"cannot read {path} as parquet: {error}") from error
    if _text_column(names) is None:
        raise _no_text_column(str(path), names)
    return _local(path, [_from_mapping(entry, f"row {n} of {path}") for n, entry in enumerate(entries, start=1)])


def _from_mapping(entry: Mapping[str, Any], where: str) -> RawRow:
    """A row of a local file: its text column by its usual names, in either case; other columns are ignored."""
    column = _text_column(entry)
    if column is None:
        raise _no_text_column(where, entry)
    lower = {str(key).lower(): value for key, value in entry.items()}
    return make_row(lower.get("id"), entry[column], lower.get("tags"), where)


def _text_column(names: Iterable[str]) -> str | None:
    by_lower = {str(name).lower(): name for name in names}
    return next((by_lower[name] for name in TEXT_COLUMNS if name in by_lower), None)


def _no_text_column(where: str, names: Iterable[str]) -> PromptSetError:
    found = ", ".join(str(name) for name in names) or "nothing"
    return PromptSetError(f"{where} has no text column; call it one of {', '.join(TEXT_COLUMNS)} (found: {found}).")


_READERS: dict[str, Callable[[Path], RawSet]] = {
    ".yaml": _read_yaml,
    ".yml": _read_yaml,
    ".jsonl": _read_jsonl,
    ".csv": _read_csv,
    ".tsv": _read_csv,
    ".txt": _read_txt,
    ".parquet": _read_parquet,
}
#: suffixes of files that `read_file` takes
SUFFIXES: tuple[str, ...] = tuple(_READERS)
