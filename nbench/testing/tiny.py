"""Real diffusers pipelines with random weights, about a megabyte each, built from configs without a download.

They have the classes, files and component names of the big ones, so that what holds for them holds for SD3.5 and
FLUX.1: only the widths differ. Pictures are 16 to 64 pixels of noise.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import CLIPTokenizer, PreTrainedTokenizerFast

_WORDS = ("a", "red", "cube", "cat", "photo", "of", "two", "dogs")
_WIDTH = 32


def _clip_tokenizer(scratch: Path) -> CLIPTokenizer:
    """A CLIP byte-pair tokenizer: every byte, and merges that make whole words of `_WORDS`."""
    from tokenizers import pre_tokenizers
    from transformers import CLIPTokenizer

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = [*alphabet, *(letter + "</w>" for letter in alphabet)]
    merges: list[str] = []
    for word in _WORDS:
        parts = [*word[:-1], word[-1] + "</w>"]
        while len(parts) > 1:
            pair = f"{parts[0]} {parts[1]}"
            if pair not in merges:
                merges.append(pair)
            parts = [parts[0] + parts[1], *parts[2:]]
            tokens.append(parts[0])
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    vocabulary = {token: index for index, token in enumerate(dict.fromkeys(tokens))}
    scratch.mkdir(parents=True, exist_ok=True)
    vocab_file, merges_file = scratch / "vocab.json", scratch / "merges.txt"
    vocab_file.write_text(json.dumps(vocabulary, ensure_ascii=False), encoding="utf-8")
    merges_file.write_text("#version: 0.2\n" + "\n".join(merges) + "\n", encoding="utf-8")
    tokenizer = CLIPTokenizer(
        vocab=str(vocab_file),
        merges=str(merges_file),
        model_max_length=77,
        bos_token="<|startoftext|>",
        eos_token="<|endoftext|>",
        pad_token="<|endoftext|>",
        unk_token="<|endoftext|>",
    )
    for file in (vocab_file, merges_file):
        file.unlink()
    return tokenizer


def _t5_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level, no merges, `</s>` at the end, right padding: what T5's does in form."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    tokens = ["<pad>", "</s>", "<unk>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", model_max_length=512
    )


def _clip(tokenizer: CLIPTokenizer, *, projection: bool) -> Any:
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=_WIDTH,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        projection_dim=_WIDTH,
        max_position_embeddings=77,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        hidden_act="gelu",
    )
    return (CLIPTextModelWithProjection if projection else CLIPTextModel)(config)


def _t5(tokenizer: PreTrainedTokenizerFast, width: int) -> Any:
    from transformers import T5Config, T5EncoderModel

    return T5EncoderModel(
        T5Config(vocab_size=len(tokenizer), d_model=width, d_kv=8, d_ff=48, num_layers=2, num_heads=4)
    )


def _vae(channels: int, *, levels: int = 2) -> Any:
    """An autoencoder of factor 2^(levels - 1)."""
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        sample_size=32,
        in_channels=3,
        out_channels=3,
        block_out_channels=(8, *(16,) * (levels - 1)),
        layers_per_block=1,
        latent_channels=channels,
        norm_num_groups=4,
        use_quant_conv=False,
        use_post_quant_conv=False,
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        shift_factor=0.0609,
        scaling_factor=1.5035,
    )


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
    tokenizer, t5_tokenizer = _clip_tokenizer(folder), _t5_tokenizer()
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
            joint_attention_dim=2 * _WIDTH,
            caption_projection_dim=32,
            pooled_projection_dim=2 * _WIDTH,
            qk_norm="rms_norm",
            pos_embed_max_size=32,
        )
        pipeline = StableDiffusion3Pipeline(
            transformer=transformer,
            scheduler=FlowMatchEulerDiscreteScheduler(shift=shift),
            vae=_vae(4),
            text_encoder=_clip(tokenizer, projection=True),
            tokenizer=tokenizer,
            text_encoder_2=_clip(tokenizer, projection=True),
            tokenizer_2=tokenizer,
            text_encoder_3=_t5(t5_tokenizer, 2 * _WIDTH) if t5 else None,
            tokenizer_3=t5_tokenizer if t5 else None,
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
    tokenizer, t5_tokenizer = _clip_tokenizer(folder), _t5_tokenizer()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        transformer = FluxTransformer2DModel(
            patch_size=1,
            in_channels=16,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=_WIDTH,
            pooled_projection_dim=_WIDTH,
            axes_dims_rope=(4, 4, 8),
            guidance_embeds=guidance_embeds,
        )
        pipeline = FluxPipeline(
            transformer=transformer,
            scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=guidance_embeds, shift=1.0),
            vae=_vae(4),
            text_encoder=_clip(tokenizer, projection=False),
            tokenizer=tokenizer,
            text_encoder_2=_t5(t5_tokenizer, _WIDTH),
            tokenizer_2=t5_tokenizer,
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
    tokenizer = _t5_tokenizer()
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
            vae=_vae(4, levels=4),  # Lumina2 takes a factor of 8 for granted
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
    tokenizer = _clip_tokenizer(folder)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        unet = UNet2DConditionModel(
            sample_size=16,
            block_out_channels=(8, 16),
            layers_per_block=1,
            norm_num_groups=4,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            cross_attention_dim=_WIDTH,
            attention_head_dim=4,
        )
        pipeline = StableDiffusionPipeline(
            unet=unet,
            vae=_vae(4),
            scheduler=DDIMScheduler(prediction_type=prediction_type, steps_offset=1, clip_sample=False),
            text_encoder=_clip(tokenizer, projection=False),
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
