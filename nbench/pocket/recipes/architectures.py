"""The two pocket bases as trainable modules, built from the very classes their diffusers pipelines hold."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from diffusers import (
    AutoencoderKL,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
)
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import nn
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    PreTrainedTokenizerFast,
    T5Config,
    T5EncoderModel,
)

from nbench.pocket.world import vocabulary

TEXT_LENGTH = 12  # tokens: the longest pocket caption, start and end included
LATENT = (16, 8, 8)
WIDTH = 256
TEXT_WIDTH = 128


def clip_tokenizer(folder: Path) -> CLIPTokenizer:
    """A CLIP tokenizer whose BPE merges make one token of every pocket word, and bytes of anything else."""
    folder.mkdir(parents=True, exist_ok=True)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    bpe = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    bpe.pre_tokenizer = pre_tokenizers.Whitespace()
    trainer = trainers.BpeTrainer(
        vocab_size=100_000, end_of_word_suffix="</w>", initial_alphabet=alphabet, show_progress=False, min_frequency=1
    )
    bpe.train_from_iterator([" ".join(vocabulary())], trainer)
    trained = json.loads(bpe.to_str())["model"]
    merges = [tuple(pair) for pair in trained["merges"]]
    tokens = [*alphabet, *(letter + "</w>" for letter in alphabet), *("".join(pair) for pair in merges)]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    vocab = {token: i for i, token in enumerate(dict.fromkeys(tokens))}
    (folder / "vocab.json").write_text(json.dumps(vocab, ensure_ascii=False))
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n")
    tokenizer = CLIPTokenizer(
        vocab=str(folder / "vocab.json"),
        merges=str(folder / "merges.txt"),
        model_max_length=TEXT_LENGTH,
        bos_token="<|startoftext|>",
        eos_token="<|endoftext|>",
        pad_token="<|endoftext|>",
        unk_token="<|endoftext|>",
    )
    tokenizer.save_pretrained(folder)
    return CLIPTokenizer.from_pretrained(folder)


def t5_tokenizer() -> PreTrainedTokenizerFast:
    """A T5-style tokenizer (no start token, `</s>` at the end) over the pocket words."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=100_000,
        special_tokens=["<pad>", "</s>", "<unk>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
        min_frequency=1,
    )
    bpe.train_from_iterator([" ".join(vocabulary())], trainer)
    bpe.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        model_max_length=TEXT_LENGTH,
    )


def _clip_config(tokenizer: CLIPTokenizer) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=TEXT_WIDTH,
        intermediate_size=4 * TEXT_WIDTH,
        num_hidden_layers=2,
        num_attention_heads=4,
        projection_dim=TEXT_WIDTH,
        max_position_embeddings=TEXT_LENGTH,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        initializer_factor=1.0,
    )


class Family(nn.Module):
    """A base under training: text encoders and transformer. `forward` gives the velocity of a batch."""

    settings: ClassVar[dict[str, Any]]
    transformer: nn.Module

    def forward(
        self, x: torch.Tensor, t: torch.Tensor, captions: Sequence[str], guidance: torch.Tensor
    ) -> torch.Tensor:
        """Velocity [B, 16, 8, 8] at x [B, 16, 8, 8], t [B] in [0, 1]; `guidance` [B] is used by flux only."""
        raise NotImplementedError

    def pipeline(self, vae: AutoencoderKL) -> Any:
        """The diffusers pipeline of these modules."""
        raise NotImplementedError

    def load_pipeline(self, folder: Path) -> None:
        """Take over the weights of a base that `save_pipeline` wrote."""
        for name, module in self.named_children():
            saved = type(module).from_pretrained(folder / name, torch_dtype=torch.float32)  # type: ignore[attr-defined]
            module.load_state_dict(saved.state_dict())

    def save_pipeline(self, folder: Path, vae: AutoencoderKL) -> None:
        """Write the standard folder layout in fp16 safetensors, and `nbench.json` with the settings to use it at."""
        pipeline = self.pipeline(vae)
        halves = {name: module.half() for name, module in _copies(pipeline).items()}
        type(pipeline)(**{**pipeline.components, **halves}).save_pretrained(folder, safe_serialization=True)
        for path in folder.glob("*/config.json"):  # where a part was loaded from is nobody's business
            config = json.loads(path.read_text())
            if config.pop("_name_or_path", None) is not None:
                path.write_text(json.dumps(config, indent=2) + "\n")
        (folder / "nbench.json").write_text(json.dumps(self.settings, indent=2) + "\n")


def _copies(pipeline: Any) -> dict[str, nn.Module]:
    return {name: copy.deepcopy(part) for name, part in pipeline.components.items() if isinstance(part, nn.Module)}


class PocketSD3(Family):
    """Five MM-DiT blocks of width 256, 16 picture tokens, two CLIP text encoders, no T5 (one zero token instead)."""

    settings: ClassVar[dict[str, Any]] = {"max_sequence_length": 1, "guidance": 4.5, "resolution": [64, 64]}

    def __init__(self, tokenizers: Path) -> None:
        super().__init__()
        self.tokenizer = clip_tokenizer(tokenizers / "clip")
        self.text_encoder = CLIPTextModelWithProjection(_clip_config(self.tokenizer))
        self.text_encoder_2 = CLIPTextModelWithProjection(_clip_config(self.tokenizer))
        self.transformer = SD3Transformer2DModel(
            sample_size=LATENT[1],
            patch_size=2,
            in_channels=LATENT[0],
            out_channels=LATENT[0],
            num_layers=5,
            attention_head_dim=64,
            num_attention_heads=WIDTH // 64,
            joint_attention_dim=2 * TEXT_WIDTH,
            caption_projection_dim=WIDTH,
            pooled_projection_dim=2 * TEXT_WIDTH,
            pos_embed_max_size=8,
            qk_norm="rms_norm",
        )

    def forward(
        self, x: torch.Tensor, t: torch.Tensor, captions: Sequence[str], guidance: torch.Tensor
    ) -> torch.Tensor:
        """See Family."""
        tokens = self.tokenizer(
            list(captions), padding="max_length", max_length=TEXT_LENGTH, truncation=True, return_tensors="pt"
        ).input_ids.to(x.device)
        outputs = [encoder(tokens, output_hidden_states=True) for encoder in (self.text_encoder, self.text_encoder_2)]
        words = torch.cat([output.hidden_states[-2] for output in outputs], dim=-1)
        words = torch.cat([words, torch.zeros_like(words[:, :1])], dim=1)  # what the pipeline puts where T5 is missing
        pooled = torch.cat([output.text_embeds for output in outputs], dim=-1)
        velocity: torch.Tensor = self.transformer(
            hidden_states=x,
            timestep=1000 * t,
            encoder_hidden_states=words,
            pooled_projections=pooled,
            return_dict=False,
        )[0]
        return velocity

    def pipeline(self, vae: AutoencoderKL) -> StableDiffusion3Pipeline:
        """See Family."""
        return StableDiffusion3Pipeline(
            transformer=self.transformer,
            scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
            vae=vae,
            text_encoder=self.text_encoder,
            tokenizer=self.tokenizer,
            text_encoder_2=self.text_encoder_2,
            tokenizer_2=self.tokenizer,
            text_encoder_3=None,
            tokenizer_3=None,
        )


class PocketFlux(Family):
    """Two double and three single FLUX blocks of width 256, guidance embedding, CLIP pooled and T5 tokens."""

    settings: ClassVar[dict[str, Any]] = {"max_sequence_length": TEXT_LENGTH, "guidance": 5.0, "resolution": [64, 64]}

    def __init__(self, tokenizers: Path) -> None:
        super().__init__()
        self.tokenizer = clip_tokenizer(tokenizers / "clip")
        self.tokenizer_2 = t5_tokenizer()
        self.text_encoder = CLIPTextModel(_clip_config(self.tokenizer))
        self.text_encoder_2 = T5EncoderModel(
            T5Config(
                vocab_size=len(self.tokenizer_2),
                d_model=2 * TEXT_WIDTH,
                d_kv=64,
                d_ff=4 * TEXT_WIDTH,
                num_layers=2,
                num_heads=4,
                feed_forward_proj="gated-gelu",
                dropout_rate=0.0,
                pad_token_id=0,
                eos_token_id=1,
            )
        )
        self.transformer = FluxTransformer2DModel(
            patch_size=1,
            in_channels=4 * LATENT[0],
            num_layers=2,
            num_single_layers=3,
            attention_head_dim=64,
            num_attention_heads=WIDTH // 64,
            joint_attention_dim=2 * TEXT_WIDTH,
            pooled_projection_dim=TEXT_WIDTH,
            guidance_embeds=True,
            axes_dims_rope=(16, 24, 24),
        )

    def forward(
        self, x: torch.Tensor, t: torch.Tensor, captions: Sequence[str], guidance: torch.Tensor
    ) -> torch.Tensor:
        """See Family."""
        captions = list(captions)
        kwargs = {"padding": "max_length", "max_length": TEXT_LENGTH, "truncation": True, "return_tensors": "pt"}
        clip_ids = self.tokenizer(captions, **kwargs).input_ids.to(x.device)
        t5_ids = self.tokenizer_2(captions, **kwargs).input_ids.to(x.device)
        batch, channels, height, width = x.shape
        packed = FluxPipeline._pack_latents(x, batch, channels, height, width)
        velocity = self.transformer(
            hidden_states=packed,
            timestep=t,
            guidance=guidance,
            pooled_projections=self.text_encoder(clip_ids).pooler_output,
            encoder_hidden_states=self.text_encoder_2(t5_ids)[0],
            txt_ids=torch.zeros(TEXT_LENGTH, 3, device=x.device),
            img_ids=FluxPipeline._prepare_latent_image_ids(batch, height // 2, width // 2, x.device, torch.float32),
            return_dict=False,
        )[0]
        unpacked: torch.Tensor = FluxPipeline._unpack_latents(velocity, height * 8, width * 8, 8)
        return unpacked

    def pipeline(self, vae: AutoencoderKL) -> FluxPipeline:
        """See Family."""
        return FluxPipeline(
            transformer=self.transformer,
            scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, base_shift=1.15, max_shift=1.15),
            vae=vae,
            text_encoder=self.text_encoder,
            tokenizer=self.tokenizer,
            text_encoder_2=self.text_encoder_2,
            tokenizer_2=self.tokenizer_2,
        )


def build_family(name: str, tokenizers: Path) -> Family:
    """`sd3` or `flux`, with random weights; tokenizer files are written under `tokenizers`."""
    return {"sd3": PocketSD3, "flux": PocketFlux}[name](tokenizers)
