"""HPSv3 with random weights in its published files: a checkpoint of hpsv3 1.0.0 and the base model's config and words.

The names are those that transformers 4.45.2 gives, under which the model was published, not those of today.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from nbench.testing.random_tensors import random_tensors

MODEL = "MizzenAI/HPSv3"
BASE = "Qwen/Qwen2-VL-7B-Instruct"
#: in the order of their ids, which begin after the words'
SPECIALS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|object_ref_start|>",
    "<|object_ref_end|>",
    "<|box_start|>",
    "<|box_end|>",
    "<|quad_start|>",
    "<|quad_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@dataclass(frozen=True)
class HPSv3Size:
    """Widths of the model; the default is the published one.

    Attributes:
        hidden, layers, heads, kv_heads, inner: of the language model; `inner` is its feed-forward's width.
        mrope: split of half a head over time, height and width.
        vision, vision_layers, vision_heads: of the picture's encoder.
        words: entries of the vocabulary, special ones included.
        rows: of the base model's embedding, which the checkpoint cuts to `words` + 1.
    """

    hidden: int = 3584
    layers: int = 28
    heads: int = 28
    kv_heads: int = 4
    inner: int = 18944
    mrope: tuple[int, int, int] = (16, 24, 24)
    vision: int = 1280
    vision_layers: int = 32
    vision_heads: int = 16
    words: int = 151657
    rows: int = 152064


FULL = HPSv3Size()
TINY = HPSv3Size(64, 2, 2, 1, 96, (4, 6, 6), 32, 2, 2, 256 + len(SPECIALS), 320)


def hpsv3_tensors(size: HPSv3Size = TINY) -> dict[str, tuple[int, ...]]:
    """Names and shapes in HPSv3.safetensors."""
    hidden, wide = size.hidden, 4 * size.vision
    key_value = size.kv_heads * hidden // size.heads
    shapes: dict[str, tuple[int, ...]] = {
        "visual.patch_embed.proj.weight": (size.vision, 3, 2, 14, 14),
        "model.embed_tokens.weight": (size.words + 1, hidden),
        "model.norm.weight": (hidden,),
        "lm_head.weight": (size.words + 1, hidden),
    }

    def linear(name: str, into: int, out: int, bias: bool = True) -> None:
        shapes[f"{name}.weight"] = (out, into)
        if bias:
            shapes[f"{name}.bias"] = (out,)

    def norm(name: str) -> None:
        shapes[f"{name}.weight"] = shapes[f"{name}.bias"] = (size.vision,)

    for at in (f"visual.blocks.{i}" for i in range(size.vision_layers)):
        norm(f"{at}.norm1")
        norm(f"{at}.norm2")
        linear(f"{at}.attn.qkv", size.vision, 3 * size.vision)
        linear(f"{at}.attn.proj", size.vision, size.vision)
        linear(f"{at}.mlp.fc1", size.vision, wide)
        linear(f"{at}.mlp.fc2", wide, size.vision)
    norm("visual.merger.ln_q")
    linear("visual.merger.mlp.0", wide, wide)
    linear("visual.merger.mlp.2", wide, hidden)
    for at in (f"model.layers.{i}" for i in range(size.layers)):
        shapes[f"{at}.input_layernorm.weight"] = shapes[f"{at}.post_attention_layernorm.weight"] = (hidden,)
        linear(f"{at}.self_attn.q_proj", hidden, hidden)
        linear(f"{at}.self_attn.k_proj", hidden, key_value)
        linear(f"{at}.self_attn.v_proj", hidden, key_value)
        linear(f"{at}.self_attn.o_proj", hidden, hidden, bias=False)
        linear(f"{at}.mlp.gate_proj", hidden, size.inner, bias=False)
        linear(f"{at}.mlp.up_proj", hidden, size.inner, bias=False)
        linear(f"{at}.mlp.down_proj", size.inner, hidden, bias=False)
    linear("rm_head.0", hidden, 1024)
    linear("rm_head.3", 1024, 16)
    linear("rm_head.5", 16, 2)
    return shapes


def base_config(size: HPSv3Size = TINY) -> dict[str, object]:
    """config.json of the base model, flat as it was published."""
    first = size.words - len(SPECIALS)
    ids = {name: first + i for i, name in enumerate(SPECIALS)}
    return {
        "architectures": ["Qwen2VLForConditionalGeneration"],
        "attention_dropout": 0.0,
        "bos_token_id": ids["<|endoftext|>"],
        "eos_token_id": ids["<|im_end|>"],
        "vision_start_token_id": ids["<|vision_start|>"],
        "vision_end_token_id": ids["<|vision_end|>"],
        "vision_token_id": ids["<|vision_pad|>"],
        "image_token_id": ids["<|image_pad|>"],
        "video_token_id": ids["<|video_pad|>"],
        "hidden_act": "silu",
        "hidden_size": size.hidden,
        "initializer_range": 0.02,
        "intermediate_size": size.inner,
        "max_position_embeddings": 32768,
        "max_window_layers": size.layers,
        "model_type": "qwen2_vl",
        "num_attention_heads": size.heads,
        "num_hidden_layers": size.layers,
        "num_key_value_heads": size.kv_heads,
        "rms_norm_eps": 1e-06,
        "rope_theta": 1000000.0,
        "sliding_window": 32768,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        "transformers_version": "4.41.2",
        "use_cache": True,
        "use_sliding_window": False,
        "vision_config": {
            "depth": size.vision_layers,
            "embed_dim": size.vision,
            "mlp_ratio": 4,
            "num_heads": size.vision_heads,
            "in_chans": 3,
            "hidden_size": size.hidden,
            "patch_size": 14,
            "spatial_merge_size": 2,
            "spatial_patch_size": 14,
            "temporal_patch_size": 2,
        },
        "rope_scaling": {"type": "mrope", "mrope_section": list(size.mrope)},
        "vocab_size": size.rows,
    }


def write_tokenizer(path: Path, size: HPSv3Size = TINY) -> None:
    """tokenizer.json in the base model's form: bytes without merges, filled up with words that no text has."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = letters + [f"unused-{i}" for i in range(size.words - len(SPECIALS) - len(letters))]
    tokenizer = Tokenizer(models.BPE(vocab={word: i for i, word in enumerate(words)}, merges=[]))
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in SPECIALS])
    tokenizer.save(str(path))


def published_hpsv3(root: Path, size: HPSv3Size = TINY, *, seed: int = 0) -> Path:
    """Write the folders MizzenAI/HPSv3 and Qwen/Qwen2-VL-7B-Instruct under `root`.

    Args:
        root: what NBENCH_WEIGHTS is to name.
        size: widths; FULL takes 16.6 GB of disk and memory.
        seed: of the random weights: body in bfloat16, head in float32, as published.

    Returns:
        `root`.
    """
    import torch
    from safetensors.torch import save_file

    model, base = root / MODEL, root / BASE
    for folder in (model, base):
        folder.mkdir(parents=True, exist_ok=True)
    tensors = random_tensors(hpsv3_tensors(size), seed)
    body = {name: value for name, value in tensors.items() if not name.startswith("rm_head.")}
    tensors |= {name: value.to(torch.bfloat16) for name, value in body.items()}
    save_file(tensors, model / "HPSv3.safetensors")
    (base / "config.json").write_text(json.dumps(base_config(size), indent=2) + "\n")
    write_tokenizer(base / "tokenizer.json", size)
    return root
