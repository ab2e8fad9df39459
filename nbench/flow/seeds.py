"""The noise seed of a cell, apart from the sampler so that a plan needs no torch."""

from __future__ import annotations

import hashlib


def noise_seed(run_seed: int, prompt_id: str, seed_index: int) -> int:
    """Seed of a cell's noise, in [0, 2^63): a hash of the run seed, the prompt's id and the seed index.

    It depends on neither batch nor checkpoint nor step count, so these all start from the same noise.
    """
    name = f"nbench-noise\0{run_seed}\0{prompt_id}\0{seed_index}"
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") >> 1
