"""Weights that mean nothing, the same on every machine: for folders in the layout of published models."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

#: longer tensors repeat their beginning, so that a full-size model is made in a minute
LONGEST_DRAW = 2**20


def random_tensor(name: str, shape: tuple[int, ...], seed: int) -> torch.Tensor:
    """A float32 tensor that depends on its name, shape and seed alone.

    Matrices and kernels keep the size of what they are applied to; tables (names with "embed") have deviation 1;
    vectors are near 1 where they scale (a name that ends in "weight") and near 0 where they shift.
    """
    import numpy as np
    import torch

    count = int(np.prod(shape))
    draw = np.random.default_rng([seed, zlib.crc32(name.encode())])
    values = np.resize(draw.standard_normal(min(count, LONGEST_DRAW)), count).reshape(shape)
    if len(shape) > 1 and "embed" not in name:
        values = values / np.sqrt(np.prod(shape[1:]))
    elif len(shape) == 1:
        values = 0.1 * values + (1.0 if name.endswith("weight") else 0.0)
    return torch.from_numpy(values.astype(np.float32))


def random_tensors(shapes: Mapping[str, tuple[int, ...]], seed: int) -> dict[str, torch.Tensor]:
    """`random_tensor` of every name."""
    return {name: random_tensor(name, shape, seed) for name, shape in shapes.items()}
