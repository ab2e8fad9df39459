"""A judge's model on disk: bundled, in a folder of the user's, or from the hub; and the identity of its files."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from nbench.errors import ScorerError, first_line
from nbench.flow.weights import POCKET_WEIGHTS, file_digest
from nbench.scoring.judge.spec import JudgeSpec
from nbench.scoring.weights import WEIGHTS_FOLDER

#: bundled models
BUNDLED = ("pocket-judge",)
#: what is read of a model; pickles are not
PATTERNS = ("*.safetensors", "*.json", "*.jinja", "*.txt")


def find_model(spec: JudgeSpec, *, fetch: bool = False) -> Path:
    """The folder of a judge's model in Hugging Face format.

    Args:
        spec: of the judge.
        fetch: get it from the hub where it is nowhere here: tens of gigabytes.

    Raises:
        ScorerError: it cannot be had, or lacks its configuration or weights; says what to do.
    """
    return _checked(_folder(spec, fetch=fetch), spec)


def _folder(spec: JudgeSpec, *, fetch: bool) -> Path:
    model = spec.model
    if model in BUNDLED:
        return POCKET_WEIGHTS / model
    path = Path(model).expanduser()
    if path.is_dir():
        return path.resolve()
    if path.is_absolute() or model.startswith(("~", ".")) or model.count("/") != 1:
        raise ScorerError(
            f"judge {spec.name!r}: there is no model {model!r}: give a folder, a hub id OWNER/NAME, or one of "
            f"{', '.join(BUNDLED)}."
        )
    root = os.environ.get(WEIGHTS_FOLDER)
    if root and (Path(root) / model).is_dir():
        return Path(root) / model
    return _from_hub(spec, fetch=fetch)


def _from_hub(spec: JudgeSpec, *, fetch: bool) -> Path:
    from huggingface_hub import snapshot_download

    def found(*, cached: bool) -> Path:
        return Path(
            snapshot_download(
                spec.model, revision=spec.revision, allow_patterns=list(PATTERNS), local_files_only=cached
            )
        )

    said = "it is not asked for models without need"
    try:
        folder = found(cached=True)
        if _faults(folder) is None:
            return folder
    except Exception:  # the hub raises many kinds, which share no root; here it only says "not cached"
        pass
    if fetch:
        try:
            return found(cached=False)
        except Exception as error:
            said = first_line(error, 1000).split(". ")[0][:160]
    revision = "" if spec.revision is None else f" --revision {spec.revision}"
    raise ScorerError(
        f"judge {spec.name!r}: the model {spec.model} is neither in ${WEIGHTS_FOLDER} nor in the hub's cache, and from "
        f"the hub there is nothing ({said}): check the id, and where there is a network run `hf download {spec.model}"
        f"{revision}`; or name a server that serves it in NBENCH_JUDGE_URL."
    )


def _faults(folder: Path) -> str | None:
    if not (folder / "config.json").is_file():
        return "has no config.json"
    if not any(folder.glob("*.safetensors")):
        return "has no *.safetensors"
    return None


def _checked(folder: Path, spec: JudgeSpec) -> Path:
    fault = _faults(folder)
    if fault is not None:
        raise ScorerError(f"judge {spec.name!r}: {folder} {fault}: it is no model in Hugging Face format.")
    return folder


def model_digests(folder: Path) -> Mapping[str, str]:
    """sha256 (hex) of every file that loading reads, by name.

    Raises:
        ScorerError: one cannot be read.
    """
    files = sorted({path for pattern in PATTERNS for path in folder.glob(pattern) if path.is_file()})
    try:
        return {path.name: file_digest(path) for path in files if path.name != "figures.json"}
    except OSError as error:
        raise ScorerError(f"the judge's model {folder} cannot be read: {error.strerror}.") from error


def weight_bytes(folder: Path) -> int:
    """Size of the weights on disk."""
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))
