"""Norm inflation: known ratios, agreement with the sampler's own norms, and what is left out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch

from nbench.errors import UsageError
from nbench.flow.model import Conditioning
from nbench.flow.sample import sample
from nbench.flow.seeds import noise_seed
from nbench.normguard.analysis.inflation import STATES, inflation, summarise_inflation
from nbench.prompts import Prompt
from nbench.testing import FakeFlowModel

PROMPTS = tuple(Prompt(f"p{i}", f"prompt {i}") for i in range(5))
STEPS = 6


class Scaled(FakeFlowModel):
    """The fake with every velocity multiplied by a number; keeps the states that it was asked at."""

    def __init__(self, factor: float, nan_prompts: Sequence[str] = ()) -> None:
        super().__init__("base", nan_prompts=nan_prompts)
        self.factor = factor
        self.seen: list[tuple[float, torch.Tensor]] = []

    def velocity(self, x: torch.Tensor, sigma: torch.Tensor, cond: Conditioning, *, guidance: float) -> torch.Tensor:
        self.seen.append((float(sigma), x))
        return self.factor * super().velocity(x, sigma, cond, guidance=guidance)


def _measure(model: FakeFlowModel, **options: object):  # type: ignore[no-untyped-def]
    asked = {"steps": STEPS, "seeds": 2, "guidance": 1.0, **options}
    return inflation(model, FakeFlowModel("base"), PROMPTS, **asked)  # type: ignore[arg-type]


def test_a_velocity_scaled_by_1_1_has_ratio_1_1_and_cosine_1_everywhere() -> None:
    found = _measure(Scaled(1.1))
    assert tuple(found.states) == STATES and found.prompt_ids == tuple(p.id for p in PROMPTS for _ in range(2))
    for norms in found.states.values():
        assert norms.ratio.shape == (10, STEPS)
        np.testing.assert_allclose(norms.ratio, 1.1, rtol=1e-6)
        np.testing.assert_allclose(norms.cosine, 1.0, atol=1e-6)
    lines = summarise_inflation(found)
    assert len(lines) == 3 * (1 + STEPS)
    assert all(line.above.mean == 1 and line.failed == 0 for line in lines)
    assert [line.sigma for line in lines if line.state == "own"][1:] == list(found.sigmas)


def test_a_shortened_velocity_is_below_1() -> None:
    for line in summarise_inflation(_measure(Scaled(0.9))):
        assert line.ratio.mean == pytest.approx(0.9, rel=1e-6) and line.ratio.high < 1 and line.above.mean == 0


def test_the_base_against_itself_is_exactly_1() -> None:
    for line in summarise_inflation(_measure(FakeFlowModel("base"))):
        assert (line.ratio.mean, line.ratio.low, line.ratio.high, line.above.mean) == (1, 1, 1, 0)


def test_base_and_own_states_are_those_of_the_sampler() -> None:
    model, base = FakeFlowModel("base", lora="nft"), FakeFlowModel("base")
    found = _measure(model)
    cond = base.encode([prompt.text for prompt in PROMPTS for _ in range(2)], guidance=1.0)
    noise = base.noise([noise_seed(0, p.id, seed) for p in PROMPTS for seed in range(2)], height=32, width=32)
    grid = base.sigmas(STEPS, height=32, width=32)
    own = sample(model, cond, noise, grid, guidance=1.0, reference=base)
    assert own.ratios is not None
    np.testing.assert_allclose(found.states["own"].policy, own.norms.T, rtol=1e-6)
    np.testing.assert_allclose(found.states["own"].ratio, own.ratios.T, rtol=1e-6)
    np.testing.assert_allclose(
        found.states["base"].reference, sample(base, cond, noise, grid, guidance=1.0).norms.T, rtol=1e-6
    )
    assert np.abs(found.states["own"].ratio - found.states["base"].ratio)[:, 1:].max() > 1e-3  # the kinds do differ


def test_renoised_states_are_base_pictures_with_fresh_noise() -> None:
    model, base = Scaled(1.3), FakeFlowModel("base")
    _measure(model, states=("renoised",), batch_size=10)
    cond = base.encode([prompt.text for prompt in PROMPTS for _ in range(2)], guidance=1.0)
    noise = base.noise([noise_seed(0, p.id, seed) for p in PROMPTS for seed in range(2)], height=32, width=32)
    grid = base.sigmas(STEPS, height=32, width=32)
    clean = sample(base, cond, noise, grid, guidance=1.0).latents
    assert [t for t, _ in model.seen] == pytest.approx(grid[:-1].tolist())
    drawn = [((x - (1 - t) * clean) / t).flatten() for t, x in model.seen]
    for eps in drawn:
        assert abs(float(eps.mean())) < 0.15 and 0.9 < float(eps.std()) < 1.1  # 640 draws
    for i, eps in enumerate(drawn):  # 4 standard errors of a correlation of 640 draws
        for other in [*drawn[:i], noise.flatten()]:
            assert abs(float(torch.corrcoef(torch.stack([eps, other]))[0, 1])) < 0.16


def test_figures_do_not_depend_on_the_batch_and_repeat() -> None:
    model = FakeFlowModel("base", lora="nft")
    one, three = _measure(model, batch_size=1), _measure(model, batch_size=3)
    for kind in STATES:
        np.testing.assert_array_equal(one.states[kind].ratio, three.states[kind].ratio)
    other = _measure(model, run_seed=1)
    assert (one.states["own"].ratio != other.states["own"].ratio).any()


def test_samples_that_are_not_finite_are_left_out_and_counted() -> None:
    found = _measure(Scaled(1.1, nan_prompts=["prompt 3"]))
    lines = summarise_inflation(found)
    assert {line.failed for line in lines} == {2}
    assert all(line.ratio.mean == pytest.approx(1.1) and line.ratio.values == 8 for line in lines)
    broken = _measure(Scaled(1.1, nan_prompts=[prompt.text for prompt in PROMPTS]))
    with pytest.raises(UsageError, match="no sample has finite velocities"):
        summarise_inflation(broken)


@pytest.mark.parametrize(("options", "message"), [({"states": ("own", "mine")}, "mine"), ({"seeds": 0}, "seeds is 0")])
def test_what_cannot_be_measured_is_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        _measure(FakeFlowModel("base"), **options)
