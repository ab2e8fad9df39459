"""RMS norms and rescaling."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nbench.errors import UsageError
from nbench.flow.norms import NormRescale, rms


def _pair(seed: int, longer: float = 1.3) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    v = longer * torch.randn(3, 4, 5, 6, generator=generator)
    return v, torch.randn(3, 4, 5, 6, generator=generator)


def test_rms_of_known_tensors() -> None:
    v = torch.stack([torch.full((2, 2, 2), 3.0), torch.zeros(2, 2, 2)])
    assert rms(v).tolist() == [3.0, 0.0]
    one_of_eight = torch.zeros(1, 2, 2, 2)
    one_of_eight[0, 1, 1, 1] = 4.0
    assert rms(one_of_eight).item() == pytest.approx(2**0.5, rel=1e-7)


def test_rms_is_taken_in_float32() -> None:
    v = torch.full((1, 100_000), 300.0, dtype=torch.float16)  # its square overflows float16
    assert rms(v).dtype == torch.float32
    assert rms(v).item() == pytest.approx(300.0, rel=1e-6)


def test_rms_does_not_depend_on_packing() -> None:
    v, _ = _pair(0)
    packed = v.permute(0, 2, 3, 1).reshape(3, 30, 4)
    torch.testing.assert_close(rms(v), rms(packed), rtol=1e-6, atol=0)


@given(seed=st.integers(0, 1000), longer=st.floats(0.1, 10))
def test_full_rescale_gives_the_reference_norm_and_keeps_the_direction(seed: int, longer: float) -> None:
    v, reference = _pair(seed, longer)
    found = NormRescale()(v, reference)
    torch.testing.assert_close(rms(found), rms(reference), rtol=1e-5, atol=0)
    assert torch.nn.functional.cosine_similarity(found.flatten(1), v.flatten(1)).min() > 0.9999


@given(seed=st.integers(0, 1000), phi=st.floats(0, 1))
def test_partial_rescale_mixes_the_two_norms(seed: int, phi: float) -> None:
    v, reference = _pair(seed)
    found = rms(NormRescale(phi=phi)(v, reference))
    torch.testing.assert_close(found, (1 - phi) * rms(v) + phi * rms(reference), rtol=1e-5, atol=0)


def test_phi_zero_changes_nothing() -> None:
    v, reference = _pair(1)
    assert torch.equal(NormRescale(phi=0.0)(v, reference), v)


def test_one_sided_only_shortens() -> None:
    v, reference = _pair(2)
    v[0] *= 0.1
    found = NormRescale(one_sided=True)(v, reference)
    assert torch.equal(found[0], v[0])
    torch.testing.assert_close(rms(found)[1:], torch.minimum(rms(v), rms(reference))[1:], rtol=1e-5, atol=0)
    assert rms(NormRescale()(v, reference))[0] > 2 * rms(v)[0]


def test_rescale_keeps_dtype_shape_and_rows_apart() -> None:
    v, reference = _pair(3)
    v[1] = float("nan")
    reference[2] = float("inf")
    found = NormRescale()(v.bfloat16(), reference.bfloat16())
    assert found.dtype == torch.bfloat16
    assert found.shape == v.shape
    assert found[0].isfinite().all()
    assert torch.equal(NormRescale()(torch.zeros(1, 4), torch.ones(1, 4)), torch.zeros(1, 4))


@pytest.mark.parametrize("phi", [-0.1, 1.1, float("nan")])
def test_phi_outside_its_range_is_refused(phi: float) -> None:
    with pytest.raises(UsageError, match=r"0 .no change. to 1"):
        NormRescale(phi=phi)
