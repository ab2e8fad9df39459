"""What a checkpoint consists of on disk: its folder, its files, their hash. Reads configs only, and imports no torch.

The hash of a checkpoint covers the bytes of every file that a load reads (weights, configs, tokenizers), so it can be
had before anything is loaded, and two folders of the same files are the same checkpoint wherever they lie.
"""

from __future__ import annotations

import contextlib
import difflib
import hashlib
import json
import os
import re
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from nbench.errors import CheckpointError, first_line
from nbench.resources import cache_folder

#: where bundled checkpoints lie
POCKET_WEIGHTS = Path(__file__).parent.parent / "pocket" / "weights"
BUNDLED = ("pocket-sd3", "pocket-flux")
#: fine-tuned by the bundled study, unguarded and guarded
BUNDLED_LORAS = ("pocket-sd3-nft", "pocket-sd3-nft-normguard")

PICKLED = frozenset({".bin", ".pt", ".pth", ".ckpt", ".pkl"})
_WEIGHT_FILE = re.compile(r"(?:diffusion_pytorch_)?model(?:\.(?P<variant>\w+))?(?:-\d+-of-\d+)?\.safetensors")
_INDEX_FILE = re.compile(r"(?:diffusion_pytorch_)?model\.safetensors\.index(?:\.\w+)?\.json")
_SIDE_FILES = frozenset({".json", ".txt", ".model", ".jinja"})
_BLOB = re.compile(r"[0-9a-f]{64}")
#: hashing this many bytes takes long enough to be worth a note
_LARGE_FILE = 64 * 2**20
_digests: dict[tuple[str, int, int], str] = {}


@dataclass(frozen=True)
class CheckpointDefaults:
    """What a checkpoint's optional `nbench.json` says: settings that it was trained for and its pipeline cannot hold.

    Attributes:
        guidance: guidance when the user names none.
        max_sequence_length: tokens that T5 prompts are padded to when the user names none.
        resolution: (height, width) in pixels.
    """

    guidance: float | None = None
    max_sequence_length: int | None = None
    resolution: tuple[int, int] | None = None


@dataclass(frozen=True)
class BaseFiles:
    """A diffusers folder that passed `inspect_base`.

    Attributes:
        folder: where it lies.
        pipeline_class: name in diffusers.
        components: component name -> class name, None for one that is left out (SD3 without T5).
        scheduler: the scheduler's configuration.
        variant: file variant to load ("fp16"), None for the plain files.
        defaults: of `nbench.json`.
    """

    folder: Path
    pipeline_class: str
    components: dict[str, str | None]
    scheduler: dict[str, Any]
    variant: str | None
    defaults: CheckpointDefaults = field(default_factory=CheckpointDefaults)

    @cached_property
    def files(self) -> list[Path]:
        """Every file that a load reads, sorted."""
        found = [self.folder / "model_index.json"]
        found += [file for file in [self.folder / "nbench.json"] if file.exists()]
        for name, class_name in self.components.items():
            if class_name is None:
                continue
            weights = _weight_files(self.folder / name, self.variant)
            others = [
                file
                for file in (self.folder / name).iterdir()
                if file.suffix in _SIDE_FILES and not _INDEX_FILE.fullmatch(file.name)
            ]
            found += [*weights, *others]
        return sorted(found)

    @cached_property
    def weights_hash(self) -> str:
        """sha256, hex, over names and contents of `files`."""
        return hash_json({file.relative_to(self.folder).as_posix(): file_digest(file) for file in self.files})


def hash_json(value: object) -> str:
    """sha256, hex, of a value's canonical JSON."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def combined_hash(base_hash: str, lora_hash: str | None, scale: float) -> str:
    """Identity of a base with a LoRA; the base's own without one."""
    return base_hash if lora_hash is None else hash_json({"base": base_hash, "lora": lora_hash, "scale": float(scale)})


def file_digest(path: Path) -> str:
    """sha256, hex, of a file; remembered by (path, size, mtime), that of a large file also between processes.

    A file of the hub's cache is a link to a blob that is named by its sha256: the name is taken.
    """
    target = path.resolve()
    if target.parent.name == "blobs" and _BLOB.fullmatch(target.name):
        return target.name
    status = target.stat()
    key = (str(target), status.st_size, status.st_mtime_ns)
    if key not in _digests:
        note = cache_folder("digests") / hash_json(list(key)) if status.st_size >= _LARGE_FILE else None
        digest = None if note is None else _read_digest(note)
        if digest is None:
            with target.open("rb") as stream:
                digest = hashlib.file_digest(stream, "sha256").hexdigest()
            if note is not None:
                _write_digest(note, digest)
        _digests[key] = digest
    return _digests[key]


def _read_digest(note: Path) -> str | None:
    try:
        text = note.read_text(encoding="ascii")
    except (OSError, ValueError):
        return None
    return text if _BLOB.fullmatch(text) else None


def _write_digest(note: Path, digest: str) -> None:
    """Keep a digest, where the cache can be written; it is only a short cut."""
    with contextlib.suppress(OSError):
        note.parent.mkdir(parents=True, exist_ok=True)
        partial = note.with_name(f"{note.name}.{os.getpid()}")
        partial.write_text(digest, encoding="ascii")
        partial.replace(note)


def looks_like_path(text: str) -> bool:
    """Whether a name can only be meant as a path: hub ids are `organisation/name`."""
    return text.startswith(("/", ".", "~", "\\")) or text.count("/") != 1 or text.endswith("/")


def resolve_base(base: str, revision: str | None = None) -> Path:
    """Folder of a base: a bundled name, a folder, or a hub id (fetched into the hub's cache).

    Raises:
        CheckpointError: there is none.
    """
    if base in BUNDLED:
        folder = POCKET_WEIGHTS / base
        if not folder.is_dir():
            raise CheckpointError(
                f"the bundled checkpoint {base} is not in this installation (no {folder}): reinstall nbench, or run "
                "its recipe in nbench/pocket/recipes."
            )
        return folder
    path = Path(base).expanduser()
    if path.is_dir():
        return path
    if path.is_file():
        raise CheckpointError(
            f"{base} is a single file: give a diffusers folder (one that holds model_index.json); diffusers' "
            "from_single_file and save_pretrained make one."
        )
    if looks_like_path(base):
        near = difflib.get_close_matches(base, BUNDLED, n=1)
        hint = f"did you mean {near[0]}?" if near else f"give a folder, a hub id, or one of {', '.join(BUNDLED)}."
        raise CheckpointError(f"there is no checkpoint folder {base}: {hint}")
    from diffusers import DiffusionPipeline

    try:
        return Path(DiffusionPipeline.download(base, revision=revision, use_safetensors=True))
    except Exception as error:  # the hub raises many kinds, which share no root
        raise CheckpointError(
            f"{base}{'' if revision is None else '@' + revision} is no folder here and could not be had from the hub "
            f"({first_line(error)}): check the name, log in if it is gated, or download it first when offline."
        ) from error


def inspect_base(base: str, revision: str | None = None) -> BaseFiles:
    """Find a base and refuse what nbench cannot run, from its configs alone.

    Raises:
        CheckpointError: no folder, not a diffusers folder, not flow matching, pickled or missing weights.
    """
    folder = resolve_base(base, revision)
    index_file = folder / "model_index.json"
    if not index_file.is_file():
        lora = any((folder / name).exists() for name in ("pytorch_lora_weights.safetensors", "adapter_config.json"))
        hint = "it looks like a LoRA: write NAME=BASE+LORA" if lora else "give the folder that holds model_index.json"
        raise CheckpointError(f"{folder} is not a diffusers pipeline folder (it has no model_index.json): {hint}.")
    index = _read_json(index_file)
    pipeline_class = index.get("_class_name")
    if not isinstance(pipeline_class, str):
        raise CheckpointError(f"{index_file} names no pipeline class of diffusers: nbench runs no custom code.")
    components = {
        name: entry[1] for name, entry in index.items() if isinstance(entry, list) and not name.startswith("_")
    }
    scheduler = _read_json(folder / "scheduler" / "scheduler_config.json")
    if not is_flow_matching(scheduler):
        kind = scheduler.get("prediction_type", "epsilon")
        raise CheckpointError(
            f"{folder} is a {pipeline_class} with a {scheduler.get('_class_name')} scheduler ({kind} prediction), not "
            "a flow-matching model: nbench measures velocities, so give a flow-matching checkpoint (SD3, FLUX, ...)."
        )
    variants = []
    for name, class_name in components.items():
        if class_name is None:
            continue
        part = folder / name
        if not part.is_dir():
            raise CheckpointError(f"{folder} lacks the folder {name}/ that its model_index.json names: copy it whole.")
        if (part / "config.json").exists():
            variants.append(_check_weights(part))
    variant = next((found for found in variants if found is not None), None)
    return BaseFiles(folder, pipeline_class, components, scheduler, variant, _read_defaults(folder))


def is_flow_matching(scheduler: dict[str, Any]) -> bool:
    """Whether a scheduler configuration steps along velocities."""
    return (
        str(scheduler.get("_class_name", "")).startswith("FlowMatch")
        or scheduler.get("prediction_type") == "flow_prediction"
        or bool(scheduler.get("use_flow_sigmas"))
    )


def _weight_files(part: Path, variant: str | None) -> list[Path]:
    found = [(file, match) for file in part.iterdir() if (match := _WEIGHT_FILE.fullmatch(file.name))]
    chosen = [file for file, match in found if variant is not None and match["variant"] == variant]
    return chosen or [file for file, match in found if match["variant"] is None]


def _check_weights(part: Path) -> str | None:
    """The variant that must be asked for to load a model component: None when it has plain files."""
    found = [match["variant"] for file in part.iterdir() if (match := _WEIGHT_FILE.fullmatch(file.name))]
    if not found:
        pickled = sorted(file.name for file in part.iterdir() if file.suffix in PICKLED)
        if pickled:
            raise CheckpointError(
                f"{part} holds pickled weights only ({pickled[0]}), which can run code when loaded: convert them to "
                "safetensors (save_pretrained does)."
            )
        raise CheckpointError(f"{part} holds no safetensors weights: download or save the checkpoint again.")
    return None if None in found else sorted(found)[0]


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{path} is missing: download or save the checkpoint again.") from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read ({first_line(error)}): save the checkpoint again.") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} does not hold a JSON object: save the checkpoint again.")
    return value


def _read_defaults(folder: Path) -> CheckpointDefaults:
    path = folder / "nbench.json"
    if not path.exists():
        return CheckpointDefaults()
    values = _read_json(path)
    known = ("guidance", "max_sequence_length", "resolution")
    for key in values:
        if key not in known:
            raise CheckpointError(f"{path} has the unknown key {key!r}: it may hold {', '.join(known)}.")
    size = values.get("resolution")
    return CheckpointDefaults(
        guidance=values.get("guidance"),
        max_sequence_length=values.get("max_sequence_length"),
        resolution=None if size is None else (int(size[0]), int(size[1])),
    )
