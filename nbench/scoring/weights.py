"""Where a scorer's files come from: a folder of the user's, the hub's cache, or the hub itself, at a pinned commit.

A folder of the user's has the hub's layout, so one environment variable serves every scorer and shared backbones:

    hf download OWNER/NAME --revision COMMIT --local-dir $NBENCH_WEIGHTS/OWNER/NAME
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from nbench.errors import ScorerError, first_line
from nbench.flow.weights import file_digest

if TYPE_CHECKING:
    from torch import Tensor

#: environment variable: folder that holds OWNER/NAME/ folders of weights
WEIGHTS_FOLDER = "NBENCH_WEIGHTS"
_local: ContextVar[bool] = ContextVar("local", default=False)
#: what the hub could not give in this process: each try costs half a minute where there is no network
_failed: dict[tuple[str, str | None], str] = {}


@contextmanager
def only_local() -> Iterator[None]:
    """Inside, weights are looked for on this machine only, and the hub is not asked: for lists and descriptions."""
    token = _local.set(True)
    try:
        yield
    finally:
        _local.reset(token)


@dataclass(frozen=True)
class Source:
    """Files of one repository that a scorer reads.

    Attributes:
        repo: hub id "owner/name"; also the folder's name under $NBENCH_WEIGHTS.
        revision: commit, 40 hex digits; None takes the newest, and only the digests on the card tell which.
        files: paths in the repository of every file that is read; "a|b" takes the first of them that is there.
        url: where a person gets the files, when they are not on the hub.
    """

    repo: str
    revision: str | None
    files: tuple[str, ...]
    url: str = ""

    def folder(self) -> Path:
        """The folder that holds the files; downloads what the hub's cache lacks.

        Raises:
            ScorerError: they cannot be had; says which they are, how to get them, and where to put them.
        """
        own = self._own_folder()
        if own is not None and own.is_dir():
            missing = [name for name in self.files if _first(own, name) is None]
            if missing:
                raise ScorerError(f"{own} lacks {', '.join(missing)}: {self._how()}.")
            return own
        if self.url:
            raise ScorerError(f"the weights {self.repo} are not here: {self._how()}.")
        return self._from_hub()

    def path(self, name: str) -> Path:
        """Where one of `files` is.

        Raises:
            ScorerError: it cannot be had.
        """
        found = _first(self.folder(), name)
        if found is None:
            raise ScorerError(f"{self.repo} has no {name}: {self._how()}.")
        return found

    def digests(self) -> dict[str, str]:
        """sha256 (hex) of each file, by "owner/name/file".

        Raises:
            ScorerError: a file cannot be had or read.
        """
        folder, found = self.folder(), {}
        for name in self.files:
            path = _first(folder, name)
            if path is None:
                continue  # an alternative that the hub does not have either was found missing by folder()
            try:
                found[f"{self.repo}/{path.relative_to(folder).as_posix()}"] = file_digest(path)
            except OSError as error:
                raise ScorerError(f"the weight file {path} cannot be read ({error.strerror}).") from error
        return found

    def _own_folder(self) -> Path | None:
        root = os.environ.get(WEIGHTS_FOLDER)
        return Path(root).expanduser() / self.repo if root else None

    def _from_hub(self) -> Path:
        from huggingface_hub import snapshot_download

        patterns = [one for name in self.files for one in name.split("|")]

        def fetch(*, cached: bool) -> Path:
            return Path(
                snapshot_download(self.repo, revision=self.revision, allow_patterns=patterns, local_files_only=cached)
            )

        try:
            folder = fetch(cached=True)
            if self.revision is not None and all(_first(folder, name) for name in self.files):
                return folder  # a pinned commit cannot have changed: the hub need not be asked
        except Exception:  # the hub raises many kinds, which share no root; here it only says "not cached"
            pass
        if _local.get():
            raise ScorerError(f"the weights {self._named()} are not on this machine: {self._how()}.")
        try:
            if (self.repo, self.revision) in _failed:
                raise OSError(_failed[self.repo, self.revision])
            folder = fetch(cached=False)
        except Exception as error:
            said = first_line(error, 1000).split(". ")[0][:160]
            _failed[self.repo, self.revision] = said
            raise ScorerError(
                f"the weights {self._named()} are neither in ${WEIGHTS_FOLDER} nor in the hub's cache, and the hub "
                f"gave nothing ({said}): {self._how()}."
            ) from error
        missing = [name for name in self.files if _first(folder, name) is None]
        if missing:
            raise ScorerError(f"{self._named()} on the hub has no {', '.join(missing)}: {self._how()}.")
        return folder

    def _named(self) -> str:
        return self.repo if self.revision is None else f"{self.repo}@{self.revision[:12]}"

    def _how(self) -> str:
        place = f"${WEIGHTS_FOLDER}/{self.repo}/"
        if self.url:
            return f"get {', '.join(self.files)} from {self.url}, put it into {place}, and set {WEIGHTS_FOLDER}"
        revision = "" if self.revision is None else f" --revision {self.revision}"
        return (
            f"where there is a network, run `hf download {self.repo}{revision} --local-dir {place}`, copy the folder, "
            f"and set {WEIGHTS_FOLDER}"
        )


def _first(folder: Path, name: str) -> Path | None:
    """The first existing alternative of "a|b"."""
    return next((path for one in name.split("|") if (path := folder / one).is_file()), None)


def load_tensors(path: Path) -> dict[str, Tensor]:
    """A state dict on the CPU, from safetensors or from a pickle that holds tensors and plain containers only.

    Args:
        path: the file. A "state_dict" inside a pickle is taken out of it.

    Raises:
        ScorerError: the file is missing, corrupt, or holds something that could run code.
    """
    import pickle

    import torch

    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            with torch.inference_mode(False):
                return dict(load_file(path))
        with torch.inference_mode(False):  # tensors made inside could never carry a gradient
            loaded = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise ScorerError(f"the weight file {path} is not there.") from None
    except pickle.UnpicklingError as error:
        said = str(error).strip().splitlines()[0][:160] if str(error).strip() else "it is no checkpoint"
        raise ScorerError(
            f"{path} is corrupt, or holds more than tensors, which could run code when loaded ({said}): fetch it "
            "again, or convert it to safetensors where you trust it."
        ) from error
    except Exception as error:  # safetensors and torch's zip reader raise kinds of their own
        said = first_line(error, 160)
        raise ScorerError(f"the weight file {path} is corrupt ({said}): fetch it again.") from error
    state = loaded.get("state_dict", loaded) if isinstance(loaded, dict) else loaded
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise ScorerError(f"{path} holds no state dict of tensors: is it the right file?")
    return state
