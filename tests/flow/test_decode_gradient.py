"""Decoding with gradients: the same bits as decoding without, and a gradient per picture."""

from __future__ import annotations

import pytest
import torch

from nbench.flow.family import DiffusersFlowModel
from nbench.flow.load import CheckpointSpec, load_model


@pytest.mark.parametrize("family", ["sd3", "flux"])
def test_decode_with_gradient_has_the_bits_of_decode(family: str, request: pytest.FixtureRequest) -> None:
    folder = request.getfixturevalue(f"{family}_folder")
    model = load_model(CheckpointSpec("m", str(folder), device="cpu"))
    assert isinstance(model, DiffusersFlowModel)
    x = model.noise([1, 2], height=32, width=32).requires_grad_()
    plain = model.decode(x)
    assert not plain.requires_grad
    for one in (model, model.reference_view()):
        pictures = one.decode_with_gradient(x)
        assert torch.equal(pictures, plain) and pictures.dtype == torch.float32
        (gradient,) = torch.autograd.grad(pictures[0].sum(), x)
        assert gradient[0].any() and not gradient[1].any()
