"""What is known of a base without loading it: layers of its transformer, from its public config, and what they cost.

Weights are counted by what they are applied to: a layer that runs on every image token costs more than one that runs
once per picture (a third of these transformers' weights are such modulations).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from nbench.flow.weights import BUNDLED, inspect_base
from nbench.normguard.config import ModelConfig

#: what a layer is applied to: tokens of the picture, of the text, of both, or one vector per picture
Stream = Literal["image", "text", "both", "once"]

#: transformer/config.json of the public repositories, as they were in November 2026
_SD35_MEDIUM = {
    "_class_name": "SD3Transformer2DModel",
    "attention_head_dim": 64,
    "caption_projection_dim": 1536,
    "dual_attention_layers": list(range(13)),
    "in_channels": 16,
    "joint_attention_dim": 4096,
    "num_attention_heads": 24,
    "num_layers": 24,
    "out_channels": 16,
    "patch_size": 2,
    "pooled_projection_dim": 2048,
    "pos_embed_max_size": 384,
    "qk_norm": "rms_norm",
    "sample_size": 128,
}
_FLUX1_DEV = {
    "_class_name": "FluxTransformer2DModel",
    "attention_head_dim": 128,
    "guidance_embeds": True,
    "in_channels": 64,
    "joint_attention_dim": 4096,
    "num_attention_heads": 24,
    "num_layers": 19,
    "num_single_layers": 38,
    "patch_size": 1,
    "pooled_projection_dim": 768,
}


@dataclass(frozen=True)
class Layer:
    """A linear layer (or the convolution that cuts a latent into patches).

    Attributes:
        name: in the transformer.
        inputs, outputs: features.
        stream: what it is applied to.
    """

    name: str
    inputs: int
    outputs: int
    stream: Stream


@dataclass(frozen=True)
class Base:
    """A base whose transformer is known.

    Attributes:
        family: "sd3" or "flux".
        config: of its transformer.
        guidance, resolution, max_sequence_length: what it does when a config names none.
        clip_tokens: of CLIP's text in front of T5's.
        vae_factor: pixels per latent row.
    """

    family: Literal["sd3", "flux"]
    config: Mapping[str, Any]
    guidance: float
    resolution: tuple[int, int]
    max_sequence_length: int
    clip_tokens: int
    vae_factor: int = 8

    @property
    def width(self) -> int:
        """Features of a token inside the transformer."""
        return int(self.config["num_attention_heads"] * self.config["attention_head_dim"])

    def layers(self) -> Iterator[Layer]:
        """Every linear layer, by the names that diffusers gives."""
        return _sd3_layers(self.config, self.width) if self.family == "sd3" else _flux_layers(self.config, self.width)

    def parameters(self) -> int:
        """Weights of the transformer, norms of queries and keys included."""
        return sum(one.inputs * one.outputs + one.outputs for one in self.layers()) + self._norms()

    def _norms(self) -> int:
        config, head = self.config, int(self.config["attention_head_dim"])
        if self.family == "flux":
            return head * (4 * int(config["num_layers"]) + 2 * int(config["num_single_layers"]))
        if not config.get("qk_norm"):
            return 0
        return head * (4 * int(config["num_layers"]) + 2 * len(config.get("dual_attention_layers") or ()))

    def tokens(self, model: ModelConfig) -> tuple[int, int]:
        """(image tokens, text tokens) of a picture."""
        height, width = model.height or self.resolution[0], model.width or self.resolution[1]
        side = self.vae_factor * 2  # both families put 2x2 latents into a token
        text = model.max_sequence_length or self.max_sequence_length
        return (height // side) * (width // side), text + (self.clip_tokens if self.family == "sd3" else 0)

    def forward_flops(self, model: ModelConfig) -> float:
        """Floating-point operations of one row through the transformer: 2 per weight and token, and attention."""
        image, text = self.tokens(model)
        count = {"image": image, "text": text, "both": image + text, "once": 1}
        dense = sum(2 * one.inputs * one.outputs * count[one.stream] for one in self.layers())
        joint = int(self.config["num_layers"]) + int(self.config.get("num_single_layers", 0))
        own = len(self.config.get("dual_attention_layers") or ())
        return float(dense + 4 * self.width * (joint * (image + text) ** 2 + own * image**2))

    def lora_parameters(self, model: ModelConfig) -> int:
        """Weights of one adapter of a training."""
        from nbench.normguard.policy import LORA_DEFAULTS

        rank, _, targets = LORA_DEFAULTS[self.family]
        rank, targets = model.lora.rank or rank, model.lora.targets or targets
        return sum(
            rank * (one.inputs + one.outputs)
            for one in self.layers()
            if any(one.name == target or one.name.endswith(f".{target}") for target in targets)
        )

    def network_rows(self, model: ModelConfig) -> int:
        """Rows through the transformer per guided velocity: SD3's guidance above 1 takes two, FLUX's is an input."""
        guidance = self.guidance if model.guidance is None else model.guidance
        return 2 if self.family == "sd3" and guidance > 1 else 1


_KNOWN = {
    "stabilityai/stable-diffusion-3.5-medium": Base("sd3", _SD35_MEDIUM, 7.0, (1024, 1024), 256, 77),
    "black-forest-labs/FLUX.1-dev": Base("flux", _FLUX1_DEV, 3.5, (1024, 1024), 512, 0),
}


def find_base(model: ModelConfig) -> Base | None:
    """What is known of a training's base: a public one, or a folder on this machine; None for any other.

    Raises:
        CheckpointError: the folder is not a diffusers checkpoint.
    """
    if model.base in _KNOWN:
        return _KNOWN[model.base]
    if model.base not in BUNDLED and not Path(model.base).is_dir():
        return None
    files = inspect_base(model.base)
    config, vae = _json(files.folder / "transformer" / "config.json"), _json(files.folder / "vae" / "config.json")
    if config.get("_class_name") not in ("SD3Transformer2DModel", "FluxTransformer2DModel"):
        return None
    factor = 2 ** (len(vae.get("block_out_channels", (1, 1, 1, 1))) - 1)
    side = int(config.get("sample_size") or 128) * factor
    defaults = files.defaults
    sd3 = config["_class_name"] == "SD3Transformer2DModel"
    tokenizer = files.folder / "tokenizer" / "tokenizer_config.json"
    clip = _json(tokenizer).get("model_max_length", 77) if tokenizer.is_file() else 77
    return Base(
        family="sd3" if sd3 else "flux",
        config=config,
        guidance=defaults.guidance if defaults.guidance is not None else 7.0 if sd3 else 3.5,
        resolution=defaults.resolution or (side, side),
        max_sequence_length=defaults.max_sequence_length or (256 if sd3 else 512),
        clip_tokens=min(int(clip), 77) if sd3 else 0,
        vae_factor=factor,
    )


def _json(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def _sd3_layers(config: Mapping[str, Any], d: int) -> Iterator[Layer]:
    """Source: diffusers `models/transformers/transformer_sd3.py`."""
    patch, blocks = int(config["patch_size"]) ** 2, int(config["num_layers"])
    yield Layer("pos_embed.proj", int(config["in_channels"]) * patch, d, "image")
    yield from _embedders(config, d, guidance=False)
    yield Layer("context_embedder", int(config["joint_attention_dim"]), int(config["caption_projection_dim"]), "text")
    dual = set(config.get("dual_attention_layers") or ())
    for i in range(blocks):
        name, last = f"transformer_blocks.{i}", i == blocks - 1  # the last drops the text after its attention
        yield Layer(f"{name}.norm1.linear", d, (9 if i in dual else 6) * d, "once")
        yield Layer(f"{name}.norm1_context.linear", d, (2 if last else 6) * d, "once")
        yield from _attention(f"{name}.attn", d, out=not last)
        if i in dual:
            for part in ("to_q", "to_k", "to_v", "to_out.0"):
                yield Layer(f"{name}.attn2.{part}", d, d, "image")
        yield from _feed_forward(f"{name}.ff", d, "image")
        if not last:
            yield from _feed_forward(f"{name}.ff_context", d, "text")
    yield Layer("norm_out.linear", d, 2 * d, "once")
    yield Layer("proj_out", d, patch * int(config.get("out_channels") or config["in_channels"]), "image")


def _flux_layers(config: Mapping[str, Any], d: int) -> Iterator[Layer]:
    """Source: diffusers `models/transformers/transformer_flux.py`."""
    channels = int(config["in_channels"])
    yield Layer("x_embedder", channels, d, "image")
    yield Layer("context_embedder", int(config["joint_attention_dim"]), d, "text")
    yield from _embedders(config, d, guidance=bool(config.get("guidance_embeds")))
    for i in range(int(config["num_layers"])):
        name = f"transformer_blocks.{i}"
        yield Layer(f"{name}.norm1.linear", d, 6 * d, "once")
        yield Layer(f"{name}.norm1_context.linear", d, 6 * d, "once")
        yield from _attention(f"{name}.attn", d, out=True)
        yield from _feed_forward(f"{name}.ff", d, "image")
        yield from _feed_forward(f"{name}.ff_context", d, "text")
    for i in range(int(config["num_single_layers"])):
        name = f"single_transformer_blocks.{i}"
        yield Layer(f"{name}.norm.linear", d, 3 * d, "once")
        yield Layer(f"{name}.proj_mlp", d, 4 * d, "both")
        yield Layer(f"{name}.proj_out", 5 * d, d, "both")
        for part in ("to_q", "to_k", "to_v"):
            yield Layer(f"{name}.attn.{part}", d, d, "both")
    yield Layer("norm_out.linear", d, 2 * d, "once")
    yield Layer("proj_out", d, int(config["patch_size"]) ** 2 * int(config.get("out_channels") or channels), "image")


def _embedders(config: Mapping[str, Any], d: int, *, guidance: bool) -> Iterator[Layer]:
    for kind in ("timestep", "guidance") if guidance else ("timestep",):
        yield Layer(f"time_text_embed.{kind}_embedder.linear_1", 256, d, "once")
        yield Layer(f"time_text_embed.{kind}_embedder.linear_2", d, d, "once")
    yield Layer("time_text_embed.text_embedder.linear_1", int(config["pooled_projection_dim"]), d, "once")
    yield Layer("time_text_embed.text_embedder.linear_2", d, d, "once")


def _attention(name: str, d: int, *, out: bool) -> Iterator[Layer]:
    for part in ("to_q", "to_k", "to_v", "to_out.0"):
        yield Layer(f"{name}.{part}", d, d, "image")
    for part in ("add_q_proj", "add_k_proj", "add_v_proj", *(("to_add_out",) if out else ())):
        yield Layer(f"{name}.{part}", d, d, "text")


def _feed_forward(name: str, d: int, stream: Stream) -> Iterator[Layer]:
    yield Layer(f"{name}.net.0.proj", d, 4 * d, stream)
    yield Layer(f"{name}.net.2", 4 * d, d, stream)
