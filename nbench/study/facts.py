"""How a study was run, for its pages: commands, times, hashes of what was trained, versions, machine."""

from __future__ import annotations

import hashlib
import os

import nbench
from nbench.report.study_facts import Done, StudyFacts
from nbench.runs.backend import library_versions
from nbench.study.folder import StudyFolder
from nbench.study.plan import Plan


def study_facts(plan: Plan, folder: StudyFolder) -> StudyFacts:
    """What the study's folder says of its own making.

    Versions and machine are those of this process: where stages ran on several machines, of the one that reports.
    """
    done = tuple(
        Done(record["stage"], record["task"], record["command"], record["seconds"]) for record in folder.noted()
    )
    hashes = {}
    for training in plan.trainings:
        if folder.is_trained(training):
            weights = folder.lora(training, None) / "pytorch_lora_weights.safetensors"
            if weights.is_file():
                hashes[training.name] = hashlib.sha256(weights.read_bytes()).hexdigest()
    return StudyFacts(
        command=f"nbench study {plan.study.name}",
        done=done,
        hashes=hashes,
        versions=library_versions(lora=True),
        machine=_machine(),
        nbench=nbench.__version__,
        notes=tuple(part.strip() for part in plan.study.notes.split("\n\n") if part.strip()),
    )


def _machine() -> str:
    """In words: accelerators, or cores of a CPU."""
    import torch

    cores = f"{os.cpu_count()} CPU cores"
    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
        return f"{', '.join(names)}; {cores}"
    return f"{cores}, no accelerator"
