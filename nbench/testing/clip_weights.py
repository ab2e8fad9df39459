"""CLIP weights of any size with random values, in the very layout in which the big ones are published.

Three layouts: transformers' CLIPModel (PickScore, OpenAI's CLIP), open_clip (HPSv2), and the LAION aesthetic head. The
vocabulary is CLIP's own, from open_clip. With `CLIP_L14` or `CLIP_H14` speed and memory are the real ones; the scores
mean nothing.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nbench.testing.clip_layout import (
    LENGTH,
    TINY,
    VOCABULARY,
    ClipSizes,
    Shapes,
    aesthetic_tensors,
    hugging_face_tensors,
    open_clip_tensors,
)
from nbench.testing.random_tensors import random_tensors

if TYPE_CHECKING:
    import torch


MEAN = [0.48145466, 0.4578275, 0.40821073]
STD = [0.26862954, 0.26130258, 0.27577711]
START, END = "<|startoftext|>", "<|endoftext|>"


def clip_folder(folder: Path | str, sizes: ClipSizes = TINY, *, seed: int = 0, old: bool = False) -> Path:
    """A CLIPModel with its processor, as on the hub: config, weights, preprocessing, tokenizer.

    Args:
        folder: where to write.
        sizes: of the model.
        seed: of the weights.
        old: as saved by transformers before 4.31: pytorch_model.bin with position_ids, "size": 224 as a number.

    Returns:
        `folder`.
    """
    import torch
    from safetensors.torch import save_file

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder / "config.json", _clip_config(sizes))
    tensors = _drawn(hugging_face_tensors(sizes), seed)
    if old:
        tensors["text_model.embeddings.position_ids"] = torch.arange(LENGTH)[None]
        tensors["vision_model.embeddings.position_ids"] = torch.arange(sizes.places)[None]
        torch.save(tensors, folder / "pytorch_model.bin")
    else:
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    processor_folder(folder, sizes, old=old)
    return folder


def processor_folder(folder: Path | str, sizes: ClipSizes = TINY, *, old: bool = False) -> Path:
    """The preprocessing and tokenizer files of a CLIPModel alone; see `clip_folder`."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    size = sizes.image
    _write(
        folder / "preprocessor_config.json",
        {
            "crop_size": size if old else {"height": size, "width": size},
            "do_center_crop": True,
            "do_normalize": True,
            "do_resize": True,
            "feature_extractor_type": "CLIPFeatureExtractor",
            "image_mean": MEAN,
            "image_std": STD,
            "resample": 3,
            "size": size if old else {"shortest_edge": size},
        },
    )
    _write(folder / "tokenizer.json", _tokenizer())
    special = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": True, "__type": "AddedToken"}
    _write(
        folder / "tokenizer_config.json",
        {
            "unk_token": {"content": END} | special,
            "bos_token": {"content": START} | special,
            "eos_token": {"content": END} | special,
            "pad_token": END,
            "add_prefix_space": False,
            "errors": "replace",
            "do_lower_case": True,
            "model_max_length": LENGTH,
            "tokenizer_class": "CLIPTokenizer",
        },
    )
    return folder


def open_clip_checkpoint(path: Path | str, sizes: ClipSizes = TINY, *, seed: int = 0) -> Path:
    """A training checkpoint of open_clip, as HPSv2 is published: a pickle whose "state_dict" holds the tensors."""
    import torch

    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"epoch": 1, "name": "random", "state_dict": _drawn(open_clip_tensors(sizes), seed)}, path)
    return path


def open_clip_config(sizes: ClipSizes = TINY) -> dict[str, Any]:
    """The sizes as open_clip's model configs have them."""
    return {
        "embed_dim": sizes.joint,
        "vision_cfg": {
            "image_size": sizes.image,
            "layers": sizes.vision_layers,
            "width": sizes.vision,
            "head_width": sizes.vision // sizes.vision_heads,
            "patch_size": sizes.patch,
        },
        "text_cfg": {
            "context_length": LENGTH,
            "vocab_size": VOCABULARY,
            "width": sizes.text,
            "heads": sizes.text_heads,
            "layers": sizes.text_layers,
        },
    }


def aesthetic_head(path: Path | str, width: int = TINY.joint, *, seed: int = 0) -> Path:
    """The LAION aesthetic head on features of this width, as published: a bare state dict of five linear layers."""
    import torch

    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(_drawn(aesthetic_tensors(width), seed), path)
    return path


def _drawn(shapes: Shapes, seed: int) -> dict[str, torch.Tensor]:
    import torch

    tensors = random_tensors(shapes, seed)
    if "logit_scale" in tensors:
        tensors["logit_scale"] = torch.tensor(4.6)  # log of nearly 100, as in the published files
    return tensors


def _clip_config(sizes: ClipSizes) -> dict[str, Any]:
    text = {
        "attention_dropout": 0.0,
        "bos_token_id": 0,
        "eos_token_id": 2,  # as in the published configs, though the tokenizer's is 49407
        "hidden_act": sizes.activation,
        "hidden_size": sizes.text,
        "intermediate_size": 4 * sizes.text,
        "layer_norm_eps": 1e-05,
        "max_position_embeddings": LENGTH,
        "model_type": "clip_text_model",
        "num_attention_heads": sizes.text_heads,
        "num_hidden_layers": sizes.text_layers,
        "pad_token_id": 1,
        "projection_dim": sizes.joint,
        "vocab_size": VOCABULARY,
    }
    vision = {
        "attention_dropout": 0.0,
        "hidden_act": sizes.activation,
        "hidden_size": sizes.vision,
        "image_size": sizes.image,
        "intermediate_size": 4 * sizes.vision,
        "layer_norm_eps": 1e-05,
        "model_type": "clip_vision_model",
        "num_attention_heads": sizes.vision_heads,
        "num_hidden_layers": sizes.vision_layers,
        "patch_size": sizes.patch,
        "projection_dim": sizes.joint,
    }
    return {
        "architectures": ["CLIPModel"],
        "initializer_factor": 1.0,
        "logit_scale_init_value": 2.6592,
        "model_type": "clip",
        "projection_dim": sizes.joint,
        "text_config": text,
        "text_config_dict": None,
        "torch_dtype": "float32",
        "vision_config": vision,
        "vision_config_dict": None,
    }


@cache
def _tokenizer() -> dict[str, Any]:
    """CLIP's tokenizer.json of 2022, rebuilt from open_clip's copy of the vocabulary."""
    import open_clip

    words = open_clip.SimpleTokenizer()
    vocabulary = {token: index for token, index in words.encoder.items() if index < VOCABULARY - 2}
    vocabulary |= {START: VOCABULARY - 2, END: VOCABULARY - 1}
    marks = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": vocabulary[token], "content": token} | marks for token in (START, END)],
        "normalizer": {
            "type": "Sequence",
            "normalizers": [
                {"type": "NFC"},
                {"type": "Replace", "pattern": {"Regex": "\\s+"}, "content": " "},
                {"type": "Lowercase"},
            ],
        },
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [
                {
                    "type": "Split",
                    "pattern": {"Regex": "'s|'t|'re|'ve|'m|'ll|'d|[\\p{L}]+|[\\p{N}]|[^\\s\\p{L}\\p{N}]+"},
                    "behavior": "Removed",
                    "invert": True,
                },
                {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True},
            ],
        },
        "post_processor": {
            "type": "RobertaProcessing",
            "sep": [END, VOCABULARY - 1],
            "cls": [START, VOCABULARY - 2],
            "trim_offsets": False,
            "add_prefix_space": False,
        },
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": END,
            "continuing_subword_prefix": "",
            "end_of_word_suffix": "</w>",
            "fuse_unk": False,
            "vocab": vocabulary,
            "merges": [" ".join(pair) for pair in words.bpe_ranks],
        },
    }


def _write(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False), encoding="utf-8")
