"""Sigma grids, against values written down elsewhere and against the stock pipelines."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from nbench.errors import UsageError
from nbench.flow.load import CheckpointSpec, load_model
from nbench.flow.model import FlowModel

CASES = json.loads((Path(__file__).parents[1] / "golden" / "sigma_grids.json").read_text())["cases"]


@pytest.fixture(scope="module")
def models(sd3_folder: Path, flux_folder: Path) -> dict[str, FlowModel]:
    return {
        "sd3": load_model(CheckpointSpec("sd3", str(sd3_folder), device="cpu")),
        "flux": load_model(CheckpointSpec("flux", str(flux_folder), device="cpu")),
    }


def _agree(found: list[float], golden: list[float], decimals: int) -> bool:
    # 0.0089 is written to four decimals among numbers of three.
    return len(found) == len(golden) and all(
        abs(a - b) <= 0.5 * 10 ** -(4 if b == 0.0089 else decimals) + 1e-6 for a, b in zip(found, golden, strict=True)
    )


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case['family']}-{case['grid']}-{case['steps']}")
def test_grid_equals_golden_values(case: dict, models: dict[str, FlowModel]) -> None:
    model = models[case["family"]]
    # The tiny FLUX makes a token of 4 x 4 pixels, the real one of 16 x 16: equal tokens give equal shift.
    side = case.get("tokens_side", 8) * 4
    sigmas = model.sigmas(case["steps"], grid=case["grid"], height=side, width=side)
    assert sigmas.dtype == torch.float32
    assert len(sigmas) == case["steps"] + 1
    assert sigmas[0] == 1
    assert sigmas[-1] == 0
    found = sigmas.tolist()
    for part, values in (("sigmas", found), ("head", found[: len(case.get("head", []))])):
        if part in case:
            assert _agree(values, case[part], case["decimals"])
    if "tail" in case:
        assert _agree(found[-len(case["tail"]) :], case["tail"], case["decimals"])
    assert {"sigmas", "head", "tail"} & set(case)


@pytest.mark.parametrize("family", ["sd3", "flux"])
@pytest.mark.parametrize("steps", [1, 2, 3, 7, 50])
def test_every_grid_descends_from_one_to_zero(family: str, steps: int, models: dict[str, FlowModel]) -> None:
    for grid in ("diffusers", "linspace"):
        sigmas = models[family].sigmas(steps, grid=grid, height=32, width=32)
        assert sigmas[0] == 1
        assert sigmas[-1] == 0
        assert bool((sigmas[1:] < sigmas[:-1]).all())


def test_flux_grid_depends_on_size_and_sd3_grid_does_not(models: dict[str, FlowModel]) -> None:
    for family, same in (("sd3", True), ("flux", False)):
        small, big = (models[family].sigmas(8, height=side, width=side) for side in (32, 128))
        assert torch.equal(small, big) is same


def test_grids_are_copies_and_the_pipeline_scheduler_is_left_alone(models: dict[str, FlowModel]) -> None:
    before = models["sd3"].pipeline.scheduler.timesteps.clone()
    models["sd3"].sigmas(4, height=32, width=32)[0] = 5
    assert models["sd3"].sigmas(4, height=32, width=32)[0] == 1
    assert torch.equal(models["sd3"].pipeline.scheduler.timesteps, before)


@pytest.mark.parametrize("steps", [0, -1, True, 2.5, "four"])
def test_steps_that_are_no_count_are_refused(steps: object, models: dict[str, FlowModel]) -> None:
    with pytest.raises(UsageError, match="whole number of at least 1"):
        models["sd3"].sigmas(steps, height=32, width=32)


@pytest.mark.parametrize(("family", "size"), [("sd3", (30, 32)), ("flux", (32, 34)), ("flux", (0, 32))])
def test_sizes_that_do_not_divide_are_refused_and_a_near_one_is_named(
    family: str, size: tuple[int, int], models: dict[str, FlowModel]
) -> None:
    with pytest.raises(UsageError, match=r"multiples of 4, e\.g\. \d+x\d+"):
        models[family].sigmas(4, height=size[0], width=size[1])
