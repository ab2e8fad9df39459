"""The reductions under losses and guards: dtypes, shapes, and that losses stand alone."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
import torch

import nbench.normguard.losses
from nbench.normguard.losses.reduce import mean_latent, mse, over_latent, per_sample, same_shape


def test_mean_runs_over_everything_but_the_batch() -> None:
    x = torch.tensor([[[1.0, 2.0], [3.0, 6.0]], [[0.0, 0.0], [0.0, 4.0]]])
    assert mean_latent(x).tolist() == [3.0, 1.0]
    assert mse(x, torch.zeros_like(x)).tolist() == [12.5, 4.0]


def test_mean_is_taken_in_float64() -> None:
    x = torch.cat([torch.full((1, 1), 1e8), torch.full((1, 999), 0.5)], 1)
    assert mean_latent(x).dtype == torch.float64
    assert mean_latent(x).item() == (1e8 + 999 * 0.5) / 1000  # float32 has no halves at 1e8


@pytest.mark.parametrize(
    ("given", "computed"),
    [
        ((torch.float16, torch.bfloat16), torch.float32),
        ((torch.float32, torch.bfloat16), torch.float32),
        ((torch.float32, torch.float64), torch.float64),
    ],
)
def test_latents_are_widened(given: tuple[torch.dtype, torch.dtype], computed: torch.dtype) -> None:
    found = same_shape(a=torch.ones(2, 3, dtype=given[0]), b=torch.ones(2, 3, dtype=given[1]))
    assert [tensor.dtype for tensor in found] == [computed, computed]


def test_shapes_that_would_broadcast_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"v_ref has shape \(1, 3\), but v_theta has \(2, 3\)"):
        same_shape(v_theta=torch.ones(2, 3), v_ref=torch.ones(1, 3))
    with pytest.raises(ValueError, match=r"v_theta has shape \(2,\): give a batch of latents"):
        same_shape(v_theta=torch.ones(2), v_ref=torch.ones(2))


def test_per_sample_takes_a_number_or_one_number_each() -> None:
    like = torch.ones(3, 2, 2)
    for value in (0.1, torch.tensor(0.1, dtype=torch.float64), torch.full((3,), 0.1, dtype=torch.float64)):
        found = per_sample("t", value, like)
        assert found.shape == (3,)
        assert found.tolist() == [0.1, 0.1, 0.1]  # not 0.1 rounded to float32
    for shape in ((3, 1, 1), (1,), (2,)):
        with pytest.raises(ValueError, match=r"t has shape .* shape \(3,\)"):
            per_sample("t", torch.ones(shape), like)


def test_over_latent_multiplies_each_sample() -> None:
    latents = torch.ones(2, 3, 4)
    scaled = over_latent(torch.tensor([2.0, 3.0], dtype=torch.float64), latents) * latents
    assert scaled.dtype == torch.float32
    assert scaled[0].unique().tolist() == [2.0]
    assert scaled[1].unique().tolist() == [3.0]


def test_losses_import_nothing_else_of_nbench() -> None:
    modules = sorted(Path(nbench.normguard.losses.__file__).parent.glob("*.py"))
    assert len(modules) >= 6
    for module in modules:
        for node in ast.walk(ast.parse(module.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert all(
                name.split(".")[0] != "nbench" or name.startswith("nbench.normguard.losses.") for name in names
            ), module.name
            assert not (isinstance(node, ast.ImportFrom) and node.level), module.name
