"""What is known of a base without loading it equals what diffusers and peft make of its config."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import FluxTransformer2DModel, SD3Transformer2DModel
from torch.utils.flop_counter import FlopCounterMode

from nbench.normguard.config import ModelConfig
from nbench.study.cost_bases import find_base

PUBLIC = {"stabilityai/stable-diffusion-3.5-medium": 2_243_171_520, "black-forest-labs/FLUX.1-dev": 11_901_408_320}


def transformer(model: ModelConfig) -> tuple[Any, dict[str, Any]]:
    """The transformer on no device, and inputs of one row."""
    base = find_base(model)
    assert base is not None
    image, text = base.tokens(model)
    rows: dict[str, Any] = {
        "timestep": torch.zeros(1),
        "encoder_hidden_states": torch.zeros(1, text, base.config["joint_attention_dim"]),
        "pooled_projections": torch.zeros(1, base.config["pooled_projection_dim"]),
    }
    if base.family == "sd3":
        side = (model.height or base.resolution[0]) // base.vae_factor
        return SD3Transformer2DModel.from_config(dict(base.config)), {
            "hidden_states": torch.zeros(1, base.config["in_channels"], side, side),
            **rows,
        }
    return FluxTransformer2DModel.from_config(dict(base.config)), {
        "hidden_states": torch.zeros(1, image, base.config["in_channels"]),
        "guidance": torch.zeros(1),
        "img_ids": torch.zeros(image, 3),
        "txt_ids": torch.zeros(text, 3),
        **rows,
    }


@pytest.mark.parametrize("name", [*PUBLIC, "pocket-sd3", "pocket-flux"])
def test_layers_weights_and_operations_are_those_of_diffusers(name: str) -> None:
    model = ModelConfig(base=name)
    if name in PUBLIC:
        model = ModelConfig(base=name, height=512, width=512, max_sequence_length=128)
    base = find_base(model)
    assert base is not None
    with torch.device("meta"):
        network, row = transformer(model)
        with FlopCounterMode(display=False) as flops:
            network(**row)
    linear = {
        path: (one.in_features, one.out_features)
        for path, one in network.named_modules()
        if isinstance(one, torch.nn.Linear)
    }
    layers = {one.name: (one.inputs, one.outputs) for one in base.layers() if one.name != "pos_embed.proj"}
    assert layers == linear
    assert base.parameters() == sum(weight.numel() for weight in network.parameters())
    assert base.parameters() == PUBLIC.get(name, base.parameters())
    assert base.forward_flops(model) == flops.get_total_flops()


@pytest.mark.parametrize(("name", "expected"), [(name, None) for name in PUBLIC] + [("pocket-sd3", 638_976)])
def test_an_adapter_has_the_weights_that_peft_gives_it(name: str, expected: int | None) -> None:
    from peft import LoraConfig

    from nbench.normguard.policy import LORA_DEFAULTS

    model = ModelConfig(base=name)
    base = find_base(model)
    assert base is not None
    rank, alpha, targets = LORA_DEFAULTS[base.family]
    with torch.device("meta"):
        network, _ = transformer(model)
        network.add_adapter(LoraConfig(r=rank, lora_alpha=alpha, target_modules=list(targets)))
    found = sum(weight.numel() for path, weight in network.named_parameters() if "lora_" in path)
    assert base.lora_parameters(model) == found
    assert found == (expected or found)
    half = model.model_copy(update={"lora": model.lora.model_copy(update={"rank": rank // 2})})
    assert 2 * base.lora_parameters(half) == found


def test_guidance_doubles_the_rows_of_sd3_alone() -> None:
    sd3, flux = ModelConfig(base="pocket-sd3"), ModelConfig(base="pocket-flux", guidance=5.0)
    found = [find_base(sd3), find_base(flux)]
    assert found[0] is not None and found[1] is not None
    assert found[0].network_rows(sd3) == 2  # its own guidance is 4.5
    assert found[0].network_rows(sd3.model_copy(update={"guidance": 1.0})) == 1
    assert found[1].network_rows(flux) == 1
