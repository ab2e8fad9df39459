"""The public builders of CLIP files: the hub's file names, reproducible values."""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file

from nbench.testing.clip_layout import TINY, hugging_face_tensors
from nbench.testing.clip_weights import aesthetic_head, clip_folder, open_clip_checkpoint


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_a_clip_folder_has_the_hub_s_files(tmp_path: Path) -> None:
    others = {"config.json", "preprocessor_config.json", "tokenizer.json", "tokenizer_config.json"}
    assert names(clip_folder(tmp_path / "new")) == others | {"model.safetensors"}
    assert names(clip_folder(tmp_path / "old", old=True)) == others | {"pytorch_model.bin"}
    assert json.loads((tmp_path / "old/preprocessor_config.json").read_text())["size"] == TINY.image
    assert json.loads((tmp_path / "new/preprocessor_config.json").read_text())["size"] == {"shortest_edge": TINY.image}


def test_a_seed_gives_the_same_weights_and_another_seed_others(tmp_path: Path) -> None:
    first, same, other = (
        load_file(clip_folder(tmp_path / name, seed=seed) / "model.safetensors")
        for name, seed in (("a", 1), ("b", 1), ("c", 2))
    )
    assert hugging_face_tensors(TINY) == {n: tuple(t.shape) for n, t in first.items()}
    assert all(torch.equal(first[name], same[name]) for name in first)
    moved = [name for name in first if not torch.equal(first[name], other[name])]
    assert set(first) - set(moved) == {"logit_scale"}
    assert {tensor.dtype for tensor in first.values()} == {torch.float32}


def test_checkpoints_hold_tensors_only(tmp_path: Path) -> None:
    checkpoint = torch.load(open_clip_checkpoint(tmp_path / "hps.pt"), weights_only=True)
    assert checkpoint["state_dict"]["visual.proj"].shape == (TINY.vision, TINY.joint)
    head = torch.load(aesthetic_head(tmp_path / "head.pth", 768), weights_only=True)
    assert head["layers.0.weight"].shape == (1024, 768) and head["layers.7.weight"].shape == (1, 16)
