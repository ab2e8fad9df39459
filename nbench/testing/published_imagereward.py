"""ImageReward v1.0 with random weights in its published files: checkpoint, BERT's configuration, BERT's word pieces."""

from __future__ import annotations

import json
import string
from dataclasses import dataclass
from pathlib import Path

from nbench.testing.random_tensors import random_tensors

MODEL = "zai-org/ImageReward"
WORDS = "google-bert/bert-base-uncased"


@dataclass(frozen=True)
class ImageRewardSize:
    """Widths of the model; the default is the published one.

    Attributes:
        vision, vision_layers: of the picture's encoder, whose heads are 64 wide.
        image, patch: pixels a side of the picture and of a patch.
        text, text_layers, text_heads, inner: of the text's encoder; `inner` is its feed-forward's width.
        words: entries of BERT's vocabulary; the checkpoint has two more.
    """

    vision: int = 1024
    vision_layers: int = 24
    image: int = 224
    patch: int = 16
    text: int = 768
    text_layers: int = 12
    text_heads: int = 12
    inner: int = 3072
    words: int = 30522


FULL = ImageRewardSize()
TINY = ImageRewardSize(128, 2, 32, 8, 32, 2, 2, 64, 400)


def imagereward_tensors(size: ImageRewardSize = TINY) -> dict[str, tuple[int, ...]]:
    """Names and shapes in ImageReward.pt, but for position_ids, which are no weights."""
    shapes: dict[str, tuple[int, ...]] = {}

    def linear(name: str, into: int, out: int) -> None:
        shapes[f"{name}.weight"], shapes[f"{name}.bias"] = (out, into), (out,)

    def norm(name: str, width: int) -> None:
        shapes[f"{name}.weight"] = shapes[f"{name}.bias"] = (width,)

    vision, wide = "blip.visual_encoder", 4 * size.vision
    shapes[f"{vision}.cls_token"] = (1, 1, size.vision)
    shapes[f"{vision}.pos_embed"] = (1, (size.image // size.patch) ** 2 + 1, size.vision)
    shapes[f"{vision}.patch_embed.proj.weight"] = (size.vision, 3, size.patch, size.patch)
    shapes[f"{vision}.patch_embed.proj.bias"] = (size.vision,)
    for at in (f"{vision}.blocks.{i}" for i in range(size.vision_layers)):
        norm(f"{at}.norm1", size.vision)
        norm(f"{at}.norm2", size.vision)
        linear(f"{at}.attn.qkv", size.vision, 3 * size.vision)
        linear(f"{at}.attn.proj", size.vision, size.vision)
        linear(f"{at}.mlp.fc1", size.vision, wide)
        linear(f"{at}.mlp.fc2", wide, size.vision)
    norm(f"{vision}.norm", size.vision)
    text, width = "blip.text_encoder", size.text
    shapes[f"{text}.embeddings.word_embeddings.weight"] = (size.words + 2, width)
    shapes[f"{text}.embeddings.position_embeddings.weight"] = (512, width)
    norm(f"{text}.embeddings.LayerNorm", width)
    for at in (f"{text}.encoder.layer.{i}" for i in range(size.text_layers)):
        for kind, source in (("attention", width), ("crossattention", size.vision)):
            linear(f"{at}.{kind}.self.query", width, width)
            linear(f"{at}.{kind}.self.key", source, width)
            linear(f"{at}.{kind}.self.value", source, width)
            linear(f"{at}.{kind}.output.dense", width, width)
            norm(f"{at}.{kind}.output.LayerNorm", width)
        linear(f"{at}.intermediate.dense", width, size.inner)
        linear(f"{at}.output.dense", size.inner, width)
        norm(f"{at}.output.LayerNorm", width)
    linear("blip.vision_proj", size.vision, 256)
    linear("blip.text_proj", width, 256)
    for place, into, out in ((0, width, 1024), (2, 1024, 128), (4, 128, 64), (6, 64, 16), (7, 16, 1)):
        linear(f"mlp.layers.{place}", into, out)
    return shapes


def med_config(size: ImageRewardSize = TINY) -> dict[str, object]:
    """med_config.json."""
    return {
        "architectures": ["BertModel"],
        "attention_probs_dropout_prob": 0.1,
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.1,
        "hidden_size": size.text,
        "initializer_range": 0.02,
        "intermediate_size": size.inner,
        "layer_norm_eps": 1e-12,
        "max_position_embeddings": 512,
        "model_type": "bert",
        "num_attention_heads": size.text_heads,
        "num_hidden_layers": size.text_layers,
        "pad_token_id": 0,
        "type_vocab_size": 2,
        "vocab_size": size.words + 2,
        "encoder_width": 768,  # as published, though the picture's encoder is wider
        "add_cross_attention": True,
    }


def word_pieces(size: ImageRewardSize = TINY) -> list[str]:
    """vocab.txt: marks, single letters alone and inside words, a few words, and fillers."""
    marks = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    letters = list(string.ascii_lowercase + string.digits + "!\"#$%&'()*+,-./:;<=>?@[]^_`{|}~é東京")
    inside = [f"##{letter}" for letter in string.ascii_lowercase + string.digits]
    words = ["a", "cat", "dog", "red", "blue", "on", "the", "of", "and", "photo", "##ing", "##s"]
    known = list(dict.fromkeys(marks + letters + inside + words))
    return known + [f"[unused{i}]" for i in range(size.words - len(known))]


def published_imagereward(root: Path, size: ImageRewardSize = TINY, *, seed: int = 0) -> Path:
    """Write the folders zai-org/ImageReward and google-bert/bert-base-uncased under `root`.

    Args:
        root: what NBENCH_WEIGHTS is to name.
        size: widths; FULL takes 1.8 GB.
        seed: of the random weights.

    Returns:
        `root`.
    """
    import torch

    model, words = root / MODEL, root / WORDS
    for folder in (model, words):
        folder.mkdir(parents=True, exist_ok=True)
    tensors = random_tensors(imagereward_tensors(size), seed)
    tensors["blip.text_encoder.embeddings.position_ids"] = torch.arange(512)[None]
    torch.save(tensors, model / "ImageReward.pt")
    (model / "med_config.json").write_text(json.dumps(med_config(size), indent=2) + "\n")
    (words / "vocab.txt").write_text("\n".join(word_pieces(size)) + "\n", encoding="utf-8")
    return root
