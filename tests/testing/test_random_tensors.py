"""Random weights that every machine draws alike."""

import torch

from nbench.testing import random_tensors as module
from nbench.testing.random_tensors import random_tensor, random_tensors


def test_a_tensor_depends_on_name_shape_and_seed_alone() -> None:
    one = random_tensors({"a.weight": (3, 4), "b.weight": (3, 4)}, 0)
    assert torch.equal(one["b.weight"], random_tensors({"b.weight": (3, 4)}, 0)["b.weight"])
    assert not torch.equal(one["a.weight"], one["b.weight"])
    assert not torch.equal(one["a.weight"], random_tensor("a.weight", (3, 4), 1))


def test_matrices_keep_the_size_of_what_they_are_applied_to() -> None:
    output = random_tensor("fc.weight", (400, 300), 0) @ torch.ones(300)
    assert 0.8 < float(output.std()) < 1.2
    assert 0.8 < float(random_tensor("embed_tokens.weight", (400, 300), 0).std()) < 1.2


def test_vectors_scale_by_about_one_and_shift_by_about_nothing() -> None:
    assert abs(float(random_tensor("norm.weight", (1000,), 0).mean()) - 1) < 0.02
    assert abs(float(random_tensor("norm.bias", (1000,), 0).mean())) < 0.02


def test_a_long_tensor_repeats_its_beginning() -> None:
    long = random_tensor("norm.bias", (module.LONGEST_DRAW + 5,), 0)
    assert torch.equal(long[-5:], long[:5]) and long.shape == (module.LONGEST_DRAW + 5,)
