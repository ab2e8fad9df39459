"""Real diffusers pipelines with random weights, about a megabyte each, built from configs without a download.

They have the classes, files and component names of the big ones, so that what holds for them holds for SD3.5 and
FLUX.1: only the widths differ. Pictures are 16 to 64 pixels of noise.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from nbench.testing.parts import WIDTH, autoencoder, clip_encoder, clip_tokenizer, t5_encoder, t5_tokenizer


def _save(pipeline: Any, folder: Path) -> Path:
    pipeline.save_pretrained(folder)
    return folder


def tiny_sd3(folder: Path | str, *, seed: int = 0, t5: bool = False, shift: float = 3.0) -> Path:
    """A StableDiffusion3Pipeline of 32 x 32 pixels.

    Args:
        folder: where to save it.
        seed: of the random weights.
        t5: with a T5 third text encoder; without, `text_encoder_3=None`, as SD3 is often saved.
        shift: of its scheduler.

    Returns:
        `folder`.
    """
    import torch
    from diffusers import FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel, StableDiffusion3Pipeline

    folder = Path(folder)
    clip, t5_bytes = clip_tokenizer(folder), t5_tokenizer()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        transformer = SD3Transformer2DModel(
            sample_size=16,
            patch_size=2,
            in_channels=4,
            out_channels=4,
            num_layers=2,
            attention_head_dim=8,
            num_attention_heads=4,
            joint_attention_dim=2 * WIDTH,
            caption_projection_dim=32,
            pooled_projection_dim=2 * WIDTH,
            qk_norm="rms_norm",
            pos_embed_max_size=32,
        )
        pipeline = StableDiffusion3Pipeline(
            transformer=transformer,
            scheduler=FlowMatchEulerDiscreteScheduler(shift=shift),
            vae=autoencoder(4),
            text_encoder=clip_encoder(clip, projection=True),
            tokenizer=clip,
            text_encoder_2=clip_encoder(clip, projection=True),
            tokenizer_2=clip,
            text_encoder_3=t5_encoder(t5_bytes, 2 * WIDTH) if t5 else None,
            tokenizer_3=t5_bytes if t5 else None,
        )
    return _save(pipeline, folder)


def tiny_flux(folder: Path | str, *, seed: int = 0, guidance_embeds: bool = True) -> Path:
    """A FluxPipeline of 32 x 32 pixels, with dynamic shift; without `guidance_embeds` it is built like FLUX.1-schnell.

    Returns:
        `folder`.
    """
    import torch
    from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel

    folder = Path(folder)
    clip, t5_bytes = clip_tokenizer(folder), t5_tokenizer()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        transformer = FluxTransformer2DModel(
            patch_size=1,
            in_channels=16,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=WIDTH,
            pooled_projection_dim=WIDTH,
            axes_dims_rope=(4, 4, 8),
            guidance_embeds=guidance_embeds,
        )
        pipeline = FluxPipeline(
            transformer=transformer,
            scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=guidance_embeds, shift=1.0),
            vae=autoencoder(4),
            text_encoder=clip_encoder(clip, projection=False),
            tokenizer=clip,
            text_encoder_2=t5_encoder(t5_bytes, WIDTH),
            tokenizer_2=t5_bytes,
        )
    return _save(pipeline, folder)


def tiny_lumina2(folder: Path | str, *, seed: int = 0) -> Path:
    """A Lumina2Pipeline of 32 x 32 pixels: a flow family that nbench has no adapter for.

    Returns:
        `folder`.
    """
    import torch
    from diffusers import FlowMatchEulerDiscreteScheduler, Lumina2Pipeline, Lumina2Transformer2DModel
    from transformers import Gemma2Config, Gemma2Model

    folder = Path(folder)
    tokenizer = t5_tokenizer()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        transformer = Lumina2Transformer2DModel(
            sample_size=4,
            patch_size=2,
            in_channels=4,
            hidden_size=8,
            num_layers=2,
            num_attention_heads=1,
            num_kv_heads=1,
            multiple_of=16,
            ffn_dim_multiplier=None,
            norm_eps=1e-5,
            scaling_factor=1.0,
            axes_dim_rope=(4, 2, 2),
            axes_lens=(512, 128, 128),
            cap_feat_dim=8,
        )
        encoder = Gemma2Model(
            Gemma2Config(
                vocab_size=len(tokenizer),
                hidden_size=8,
                intermediate_size=16,
                num_hidden_layers=1,
                num_attention_heads=2,
                num_key_value_heads=1,
                head_dim=4,
            )
        )
        pipeline = Lumina2Pipeline(
            transformer=transformer,
            scheduler=FlowMatchEulerDiscreteScheduler(),
            vae=autoencoder(4, levels=4),  # Lumina2 takes a factor of 8 for granted
            text_encoder=encoder,
            tokenizer=tokenizer,
        )
    return _save(pipeline, folder)


def tiny_epsilon_pipeline(folder: Path | str, *, prediction_type: str = "epsilon") -> Path:
    """A StableDiffusionPipeline (not flow matching), with epsilon or v-prediction.

    Returns:
        `folder`.
    """
    import torch
    from diffusers import DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel

    folder = Path(folder)
    tokenizer = clip_tokenizer(folder)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        unet = UNet2DConditionModel(
            sample_size=16,
            block_out_channels=(8, 16),
            layers_per_block=1,
            norm_num_groups=4,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            cross_attention_dim=WIDTH,
            attention_head_dim=4,
        )
        pipeline = StableDiffusionPipeline(
            unet=unet,
            vae=autoencoder(4),
            scheduler=DDIMScheduler(prediction_type=prediction_type, steps_offset=1, clip_sample=False),
            text_encoder=clip_encoder(tokenizer, projection=False),
            tokenizer=tokenizer,
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
    return _save(pipeline, folder)


def tiny_lora(
    folder: Path | str, base: Path | str, seed: int, *, zero: bool = False, rank: int = 4, peft_format: bool = False
) -> Path:
    """A random LoRA on the attention projections of the transformer saved in `base`.

    Args:
        folder: where to save it.
        base: a folder of `tiny_sd3` or `tiny_flux`.
        seed: of its random weights.
        zero: leave every B matrix zero, as in a LoRA that was never trained.
        rank: of the LoRA; its alpha is twice that.
        peft_format: save as peft does (adapter_model.safetensors, adapter_config.json), not as diffusers does.

    Returns:
        `folder`.
    """
    import diffusers
    import torch
    from peft import LoraConfig
    from peft.utils import get_peft_model_state_dict
    from safetensors.torch import save_file

    folder, base = Path(folder), Path(base)
    index = json.loads((base / "model_index.json").read_text(encoding="utf-8"))
    pipeline_class = getattr(diffusers, index["_class_name"])
    transformer_class = getattr(diffusers, index["transformer"][1])
    transformer = transformer_class.from_pretrained(base / "transformer")
    config = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=["to_q", "to_k", "to_v", "to_out.0"])
    transformer.add_adapter(config, adapter_name="tiny")
    generator = torch.Generator().manual_seed(seed)
    weights = {
        name: torch.randn(tensor.shape, generator=generator) * (0.0 if zero and "lora_B" in name else 0.2)
        for name, tensor in sorted(get_peft_model_state_dict(transformer, adapter_name="tiny").items())
    }
    folder.mkdir(parents=True, exist_ok=True)
    if peft_format:
        named = {f"base_model.model.{name}": tensor for name, tensor in weights.items()}
        save_file(named, folder / "adapter_model.safetensors", metadata={"format": "pt"})
        settings = {key: value for key, value in config.to_dict().items() if not isinstance(value, dict)}
        settings["target_modules"] = sorted(config.target_modules)
        (folder / "adapter_config.json").write_text(json.dumps(settings, default=str), encoding="utf-8")
        return folder
    metadata = {"r": rank, "lora_alpha": 2 * rank, "target_modules": sorted(config.target_modules)}
    pipeline_class.save_lora_weights(
        folder, transformer_lora_layers=weights, transformer_lora_adapter_metadata=metadata
    )
    return folder
