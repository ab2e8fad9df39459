"""What this machine can run: checks of the installation, and verdicts on the models that nbench is used with.

Nothing here raises: whatever is wrong becomes a check with the status "fail" and a sentence on what to do.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import platform
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Status = Literal["ok", "note", "fail"]
GIB = 1024**3

#: versions that the test suite was last run with; distribution name -> version
TESTED: dict[str, str] = {
    "torch": "2.13.0",
    "torchvision": "0.28.0",
    "diffusers": "0.42.1",
    "transformers": "5.23.0",
    "peft": "0.21.2",
    "accelerate": "1.15.0",
    "open_clip_torch": "3.3.0",
    "datasets": "5.2.0",
    "safetensors": "0.8.0",
    "numpy": "2.4.6",
    "pillow": "13.0.0",
    "pyarrow": "26.0.1",
}
#: folders under nbench/pocket/weights that the bundled suite needs
POCKET_WEIGHTS: tuple[str, ...] = (
    *("pocket-sd3", "pocket-flux", "pocket-clip", "pocket-aesthetic"),
    *("pocket-realism", "pocket-judge"),
)


@dataclass(frozen=True)
class Check:
    """One finding: `status` "ok", "note" (works, but know this) or "fail"; `advice` says what to do, if anything."""

    name: str
    status: Status
    found: str
    advice: str = ""


@dataclass(frozen=True)
class ModelNeed:
    """What a checkpoint family needs, all in GiB and all estimates, from parameter counts.

    Attributes:
        accelerator: memory of a GPU that holds transformer, VAE and text encoders in 16 bits and makes one 1024-pixel
            picture at a time; None where a CPU does.
        encoders_off: the same once the text encoders have left the device.
        ram: main memory, which holds the weights while they load.
        disk: size of the weights.
    """

    name: str
    accelerator: float | None
    encoders_off: float
    ram: float
    disk: float


#: Transformer + T5-XXL (4.8 B) + CLIP + VAE at 2 bytes a parameter, plus about 2 GiB of activations:
#: SD3.5-Medium has a 2.5 B transformer and two CLIP encoders, FLUX.1-dev 11.9 B and one.
NEEDS: tuple[ModelNeed, ...] = (
    ModelNeed("pocket", None, 0, 2, 0.1),
    ModelNeed("SD3.5-Medium", 18, 7, 18, 16),
    ModelNeed("FLUX.1-dev", 34, 25, 36, 32),
)


@dataclass(frozen=True)
class Machine:
    """Memory and devices, GiB; `accelerators` maps a device's name to its memory."""

    ram: float
    accelerators: dict[str, float]


def run_checks(store: Path) -> list[Check]:
    """All checks, in the order of reading. Imports torch and torchvision."""
    machine = Machine(ram=_ram(), accelerators=_accelerators())
    weights = pocket_weights()
    return [
        _python(),
        *_versions(),
        _torchvision(),
        _devices(machine),
        Check("memory", "ok" if machine.ram >= 4 else "note", f"{machine.ram:.1f} GiB"),
        _threads(),
        _store(store),
        _hub(),
        _pocket(weights),
        *(can_run(need, machine, weights) for need in NEEDS),
    ]


def can_run(need: ModelNeed, machine: Machine, weights: dict[str, float]) -> Check:
    """Whether `machine` can run a checkpoint family, judged by estimated memory."""
    name = f"run {need.name}"
    if need.accelerator is None:
        missing = [weight for weight in POCKET_WEIGHTS if weight not in weights]
        if missing:
            return Check(name, "fail", f"no: {', '.join(missing)} missing", "See `pocket weights`.")
        if machine.ram < need.ram:
            return Check(name, "fail", f"no: needs about {need.ram:g} GiB of memory", "Use a larger machine.")
        return Check(name, "ok", f"yes, on the CPU (about {need.ram:g} GiB of memory)")
    needs = (
        f"an estimated {need.accelerator:g} GiB of GPU in bfloat16 ({need.encoders_off:g} without the text encoders), "
        f"{need.ram:g} GiB of memory, {need.disk:g} GiB of disk"
    )
    largest = max(machine.accelerators.values(), default=0.0)
    if largest < need.accelerator:
        lacking = f"the largest GPU has {largest:.0f} GiB" if machine.accelerators else "there is no GPU"
    elif machine.ram < need.ram:
        lacking = f"there are {machine.ram:.0f} GiB of memory"
    else:
        return Check(name, "ok", f"yes: needs {needs}; the largest GPU has {largest:.0f} GiB")
    return Check(name, "note", f"no: needs {needs}; {lacking}", "Use a larger machine; a CPU takes minutes a picture.")


def pocket_weights() -> dict[str, float]:
    """Bundled pocket weights that are present: folder name -> MiB of safetensors."""
    folder = Path(__file__).resolve().parent.parent / "pocket" / "weights"
    sizes = {}
    for entry in sorted(folder.iterdir()) if folder.is_dir() else ():
        size = sum(file.stat().st_size for file in entry.rglob("*.safetensors"))
        if size:
            sizes[entry.name] = size / 2**20
    return sizes


_STORE_ADVICE = "Choose another folder with --store or NBENCH_STORE."
_WEIGHTS_ADVICE = "Reinstall nbench, or check out its repository again: the weights are part of both."


def _python() -> Check:
    return Check("python", "ok", f"{platform.python_version()} on {platform.system()} {platform.machine()}")


def _versions() -> Iterator[Check]:
    for name, tested in TESTED.items():
        try:
            found = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            yield Check(name, "fail", "not installed", f"Install it: pip install -c constraints.txt {name}")
            continue
        if found.split("+")[0] == tested:
            yield Check(name, "ok", found)
        else:
            yield Check(name, "note", found, f"Tested with {tested}; last digits may differ.")


def _torchvision() -> Check:
    try:
        import torchvision.extension

        compiled = bool(torchvision.extension._has_ops())
    except Exception as error:
        advice = "Install the torchvision that belongs to your torch: pip install -c constraints.txt torchvision"
        return Check("torchvision ops", "fail", f"torchvision does not import: {error}", advice)
    if compiled:
        return Check("torchvision ops", "ok", "compiled operators loaded")
    return Check("torchvision ops", "ok", "no compiled operators (a CPU torch beside a CUDA torchvision); not needed")


def _devices(machine: Machine) -> Check:
    try:
        import torch
    except Exception as error:
        return Check("devices", "fail", f"torch does not import: {error}", "Reinstall it: pip install torch")
    if not machine.accelerators:
        return Check("devices", "ok", f"CPU only (torch {torch.__version__})")
    listed = ", ".join(f"{name} ({memory:.0f} GiB)" for name, memory in machine.accelerators.items())
    return Check("devices", "ok", f"{listed}, CPU (torch {torch.__version__})")


def _accelerators() -> dict[str, float]:
    try:
        import torch

        found = {}
        for i in range(torch.cuda.device_count()):
            properties = torch.cuda.get_device_properties(i)
            found[f"cuda:{i} {properties.name}"] = properties.total_memory / GIB
        if torch.backends.mps.is_available():
            found["mps"] = torch.mps.recommended_max_memory() / GIB
        return found
    except Exception:  # a broken torch or driver is reported by `_devices`
        return {}


def _ram() -> float:
    """GiB of main memory, or the container's limit when that is lower."""
    total = float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")) if hasattr(os, "sysconf") else 0.0
    limit = Path("/sys/fs/cgroup/memory.max")
    with contextlib.suppress(OSError, ValueError):  # not in a container, or "max"
        total = min(total, float(limit.read_text()))
    return total / GIB


def _threads() -> Check:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    named = os.environ.get("OMP_NUM_THREADS")
    found = f"{cores} cores, OMP_NUM_THREADS {named or 'not set'}"
    if named is not None and named.isdigit() and int(named) > cores:
        return Check("threads", "note", found, f"Threads outnumber cores; set OMP_NUM_THREADS={cores}.")
    return Check("threads", "ok", found)


def _store(store: Path) -> Check:
    existing = next(folder for folder in (store.absolute(), *store.absolute().parents) if folder.exists())
    free = shutil.disk_usage(existing).free / GIB
    found = f"{store}: {free:.1f} GiB free"
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        return Check("store", "fail", f"{store} cannot be written", _STORE_ADVICE)
    if free < 1:
        return Check("store", "note", found, f"Runs may fill the disk. {_STORE_ADVICE}")
    return Check("store", "ok", found)


def _hub() -> Check:
    switches = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
    offline = [name for name in switches if os.environ.get(name, "0") not in ("", "0")]
    cache = os.environ.get("HF_HOME", str(Path.home() / ".cache" / "huggingface"))
    if offline:
        found = f"offline ({', '.join(offline)} set), cache {cache}"
        advice = "Checkpoints and public prompt sets are not fetched; the pocket suite needs none."
        return Check("hub", "note", found, advice)
    return Check("hub", "ok", f"online if there is a network, cache {cache}")


def _pocket(weights: dict[str, float]) -> Check:
    missing = [name for name in POCKET_WEIGHTS if name not in weights]
    found = ", ".join(f"{name} ({size:.1f} MiB)" for name, size in weights.items()) or "none"
    if missing:
        return Check("pocket weights", "fail", f"{found}; missing: {', '.join(missing)}", _WEIGHTS_ADVICE)
    return Check("pocket weights", "ok", found)
