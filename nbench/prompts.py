"""Prompt sets: bundled ones by name, public ones through `datasets`, local files by path.

A prompt's id seeds its noise, so ids are stable: they are written in the set, or made from the text. A set's content
hash covers ids, texts and tags in order, and goes into the comparability card of a run.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from nbench.errors import PromptSetError, did_you_mean
from nbench.prompt_readers import SUFFIXES, RawSet, read_file, read_yaml
from nbench.resources import bundled


class PromptSetWarning(UserWarning):
    """A prompt set is usable, but something in it deserves a look: repeated texts, an unexpected count."""


@dataclass(frozen=True)
class Prompt:
    """One prompt.

    Attributes:
        id: unique in its set, and stable: it seeds the noise of every picture of the prompt.
        text: what the model is asked for.
        tags: what the prompt is about, for slices and for spreading a limit, e.g. "counting" or "colour:red"; the first
            is its main tag.
    """

    id: str
    text: str
    tags: tuple[str, ...] = ()


@dataclass(frozen=True)
class PromptSet:
    """Prompts with their origin.

    Attributes:
        name: the name of a bundled or public set, or the stem of a file.
        prompts: at least one, with distinct ids.
        source: where the texts come from, in words or as an address.
        licence: SPDX name, "user-supplied" for plain local files, or "not stated".
        description: one sentence for `nbench prompts list`.
        path: the file that the set was read from.
        total: how many prompts the set holds before any limit.
    """

    name: str
    prompts: tuple[Prompt, ...]
    source: str
    licence: str
    description: str = ""
    path: Path | None = None
    total: int = field(default=0)

    def __len__(self) -> int:
        return len(self.prompts)

    def __iter__(self) -> Iterator[Prompt]:
        return iter(self.prompts)

    @cached_property
    def content_hash(self) -> str:
        """sha256, hex, over the ids, texts and tags of `prompts` in their order (so a limited set has its own)."""
        content = [[prompt.id, prompt.text, list(prompt.tags)] for prompt in self.prompts]
        return hashlib.sha256(json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode()).hexdigest()

    @property
    def tags(self) -> dict[str, int]:
        """How many prompts carry each tag, most frequent first."""
        counts = Counter(tag for prompt in self.prompts for tag in prompt.tags)
        return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))

    @property
    def repeated_texts(self) -> dict[str, list[str]]:
        """Texts that occur more than once, with the ids that share them. They make intervals too narrow."""
        ids: dict[str, list[str]] = {}
        for prompt in self.prompts:
            ids.setdefault(prompt.text, []).append(prompt.id)
        return {text: same for text, same in ids.items() if len(same) > 1}

    def tagged(self, tag: str) -> PromptSet:
        """The prompts that carry `tag`.

        Raises:
            PromptSetError: none does.
        """
        chosen = tuple(prompt for prompt in self.prompts if tag in prompt.tags)
        if not chosen:
            raise PromptSetError(f"no prompt of {self.name!r} is tagged {tag!r}.{did_you_mean(tag, self.tags)}")
        return replace(self, prompts=chosen)

    def limited(self, limit: int) -> PromptSet:
        """At most `limit` prompts, spread over the tags; see `spread`."""
        return replace(self, prompts=spread(self.prompts, limit))


def spread(prompts: Sequence[Prompt], limit: int) -> tuple[Prompt, ...]:
    """Choose `limit` prompts that cover the tags evenly, in the order of `prompts`.

    Round-robin over the main tags (each prompt's first): the one covered least so far, of those the commonest, gives
    the next prompt, namely the one whose other tags are covered least on average; ties go by hashed id. So the choice
    depends on ids and tags alone, and a smaller limit's prompts are among a larger limit's: raising the limit of a run
    only adds cells.

    Raises:
        PromptSetError: `limit` is less than 1.
    """
    if limit < 1:
        raise PromptSetError(f"a limit of {limit} prompts leaves nothing to run; give 1 or more.")
    if limit >= len(prompts):
        return tuple(prompts)
    hashed = sorted(range(len(prompts)), key=lambda i: hashlib.sha256(prompts[i].id.encode()).digest())
    groups: dict[str, list[int]] = {}
    for i in hashed:
        groups.setdefault(prompts[i].tags[0] if prompts[i].tags else "", []).append(i)
    frequency = {tag: len(group) for tag, group in groups.items()}
    covered: Counter[str] = Counter()
    others: Counter[str] = Counter()

    def crowding(i: int) -> float:
        return sum(others[tag] for tag in prompts[i].tags[1:]) / max(1, len(prompts[i].tags) - 1)

    chosen: list[int] = []
    while len(chosen) < limit:
        tag = min(groups, key=lambda tag: (covered[tag], -frequency[tag], tag))
        free = next((i for i in groups[tag] if not crowding(i)), None)  # the first of the least, found early
        i = min(groups[tag], key=crowding) if free is None else free
        chosen.append(i)
        covered[tag] += 1
        others.update(prompts[i].tags[1:])
        groups[tag].remove(i)
        if not groups[tag]:
            del groups[tag]
    return tuple(prompts[i] for i in sorted(chosen))


def prompt_set_paths() -> dict[str, Path]:
    """Every prompt set that has a name: bundled sets first, then entries of public sets, each sorted."""
    folder = bundled("prompts")
    files = sorted(folder.glob("*.yaml")) + sorted((folder / "public").glob("*.yaml"))
    return {path.stem: path for path in files}


@dataclass(frozen=True)
class PromptSetListing:
    """What `nbench prompts list` says of a set without loading it; other than bundled ones are fetched on use."""

    name: str
    count: int
    licence: str
    description: str
    bundled: bool


def describe_prompt_sets() -> list[PromptSetListing]:
    """One listing for each set that has a name; nothing is fetched."""
    return [
        PromptSetListing(
            name=name,
            count=int(head["count"]),
            licence=str(head["licence"]),
            description=str(head.get("description", "")),
            bundled="dataset" not in head,
        )
        for name, path in prompt_set_paths().items()
        for head in [read_yaml(path)]
    ]


def load_prompt_set(name_or_path: str | Path, limit: int | None = None) -> PromptSet:
    """Load a prompt set.

    Args:
        name_or_path: a file (.yaml, .jsonl, .csv, .tsv, .txt, .parquet), which overrides a name; or a bundled set
            ("pocket", "core"); or a public set ("parti-prompts", ...), which `datasets` fetches unless it is cached.
        limit: keep at most so many prompts, spread over the tags.

    Raises:
        PromptSetError: there is no such set, it cannot be fetched, it is empty or malformed, or ids repeat.

    Warns:
        PromptSetWarning: texts repeat, or a public set has not the expected number of prompts.
    """
    path = _find(name_or_path)
    raw = read_file(path)
    prompt_set = _checked(raw, path)
    return prompt_set if limit is None else prompt_set.limited(limit)


def _find(name_or_path: str | Path) -> Path:
    path = Path(name_or_path).expanduser()
    if path.suffix.lower() in SUFFIXES:
        if not path.is_file():
            raise PromptSetError(f"there is no prompt file {path}; check the path, or give the name of a prompt set.")
        return path
    name = str(name_or_path)
    known = prompt_set_paths()
    if name in known:
        return known[name]
    if path.exists() or len(path.parts) > 1:
        raise PromptSetError(f"{path} is not a prompt file; its name must end in one of {', '.join(SUFFIXES)}.")
    raise PromptSetError(f"there is no prompt set {name!r}.{did_you_mean(name, known)}")


def _checked(raw: RawSet, path: Path) -> PromptSet:
    """The set of `raw`, with ids made where there are none, and everything verified that a run relies on."""
    where = f"prompt set {raw.name!r} ({path})"
    if not raw.rows:
        raise PromptSetError(f"{where} is empty; give it at least one prompt.")
    taken: dict[str, str] = {}
    repeated: list[str] = []
    for row in raw.rows:
        if row.id is not None:
            if row.id in taken:
                repeated.append(f"{row.id!r} ({taken[row.id]} and {row.where})")
            taken[row.id] = row.where
    if repeated:
        more = f" and {len(repeated) - 5} more" if len(repeated) > 5 else ""
        raise PromptSetError(f"{where} repeats ids: {', '.join(repeated[:5])}{more}; give each prompt its own id.")
    prompts = []
    for row in raw.rows:
        identity = row.id
        if identity is None:
            identity = _identity(row.text, taken)
            taken[identity] = row.where
        prompts.append(Prompt(identity, row.text, row.tags))
    result = PromptSet(
        name=raw.name,
        prompts=tuple(prompts),
        source=raw.source,
        licence=raw.licence,
        description=raw.description,
        path=path,
        total=len(prompts),
    )
    if raw.hash is not None and raw.hash != result.content_hash:
        raise PromptSetError(
            f"{where} has changed: its `hash` says {raw.hash[:12]}..., its content {result.content_hash[:12]}...; "
            "restore the file, or update the line if you meant to change it."
        )
    if raw.count is not None and raw.count != len(prompts):
        warnings.warn(
            f"{where} was expected to hold {raw.count} prompts, but holds {len(prompts)}; results may not be "
            "comparable with published ones.",
            PromptSetWarning,
            stacklevel=3,
        )
    if result.repeated_texts:
        text, ids = next(iter(result.repeated_texts.items()))
        warnings.warn(
            f"{where} repeats {len(result.repeated_texts)} text(s), e.g. {text[:60]!r} ({', '.join(ids[:5])}); each "
            "repetition counts as a prompt of its own, which makes intervals too narrow.",
            PromptSetWarning,
            stacklevel=3,
        )
    return result


def _identity(text: str, taken: dict[str, str]) -> str:
    """An id made from the text, so that other lines may come and go without moving this prompt's noise."""
    base = "p" + hashlib.sha256(text.encode()).hexdigest()[:12]
    identity, n = base, 1
    while identity in taken:
        n += 1
        identity = f"{base}-{n}"
    return identity
