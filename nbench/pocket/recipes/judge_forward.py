"""A fast forward pass of pocket-judge for training: pictures of one size, several questions packed behind one picture.

It uses the modules of transformers' Qwen3-VL and gives what its own forward pass gives (a test holds them together),
but attends to a batch of pictures at once instead of one by one, and reads a picture once for all its questions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from transformers import Qwen3VLForConditionalGeneration
from transformers.models.qwen3_vl.modeling_qwen3_vl import apply_rotary_pos_emb_vision

from nbench.pocket.recipes.judge_model import MERGE, PATCH, PICTURE_TOKENS, SIDE

GRID = SIDE // PATCH // MERGE  # tokens a side


def positions(is_picture: Sequence[bool], start: int = 0) -> torch.Tensor:
    """Time, row and column of every token, int64 [3, T]: a picture's tokens span a square, as in Qwen3-VL."""
    found: list[tuple[int, int, int]] = []
    place, index = start, 0
    while index < len(is_picture):
        if is_picture[index]:
            found += [(place, place + i // GRID, place + i % GRID) for i in range(PICTURE_TOKENS)]
            index, place = index + PICTURE_TOKENS, place + GRID
        else:
            found.append((place, place, place))
            index, place = index + 1, place + 1
    return torch.tensor(found).T


@dataclass(frozen=True)
class Layout:
    """A shape of sequence: a prefix with pictures, then questions that see the prefix and themselves, not each other.

    Attributes:
        pictures: bool [T], where picture tokens stand.
        positions: int64 [3, T].
        mask: bfloat16 [T, T], added to attention's logits: 0 for what a token sees, else very low.
    """

    pictures: torch.Tensor
    positions: torch.Tensor
    mask: torch.Tensor

    @classmethod
    def of(cls, prefix: Sequence[bool], lengths: Sequence[int]) -> Layout:
        """Layout of a prefix (True for a picture token) and questions of these lengths."""
        first = positions(prefix)
        after = int(first.max()) + 1
        parts = [first, *(positions([False] * length, after) for length in lengths)]
        group = torch.tensor([0] * len(prefix) + [i for i, length in enumerate(lengths, 1) for _ in range(length)])
        sees = (group[:, None] == group[None]) | (group[None] == 0)
        return cls(
            torch.tensor([*prefix, *[False] * sum(lengths)]),
            torch.cat(parts, 1),
            torch.full(sees.shape, -1e4, dtype=torch.bfloat16).masked_fill(sees.tril(), 0.0),
        )


def patches(pixels: torch.Tensor) -> torch.Tensor:
    """Patches in the order of Qwen-VL, four that are merged after one another: [N, 64, 3 * PATCH * PATCH].

    Args:
        pixels: [N, 3, SIDE, SIDE].
    """
    grid = pixels.view(len(pixels), 3, GRID, MERGE, PATCH, GRID, MERGE, PATCH).permute(0, 2, 5, 3, 6, 1, 4, 7)
    return grid.reshape(len(pixels), (GRID * MERGE) ** 2, -1)


@torch.no_grad()
def whiten(model: Qwen3VLForConditionalGeneration, pixels: torch.Tensor) -> None:
    """Start the patch embedding as the leading principal components of patches, each scaled to variance 1.

    Random filters answer to brightness above all, and from them sharpness and noise are learned several times later.

    Args:
        model: changed in place.
        pixels: [N, 3, SIDE, SIDE] in -1..1, some hundred training pictures.
    """
    embedding = model.model.visual.patch_embed.proj
    rows = patches(pixels).flatten(0, 1)
    mean = rows.mean(0)
    values, vectors = torch.linalg.eigh((rows - mean).T @ (rows - mean) / len(rows))
    count = len(embedding.weight)
    filters = vectors[:, -count:].T / (values[-count:, None] + 1e-4).sqrt()
    embedding.weight.copy_(filters.view(count, 3, 1, PATCH, PATCH).expand_as(embedding.weight) / 2)  # two frames
    embedding.bias.copy_(-filters @ mean)


class JudgeForward(nn.Module):
    """Both passes around a model, whose attention it sets to the plain kind.

    Args:
        model: trained in place.
    """

    def __init__(self, model: Qwen3VLForConditionalGeneration) -> None:
        super().__init__()
        self.model = model
        model.set_attn_implementation("eager")  # torch's fused attention is 2.5 times slower for rows this short
        order = torch.arange((GRID * MERGE) ** 2).view(GRID, MERGE, GRID, MERGE).permute(0, 2, 1, 3).flatten()
        visual = model.model.visual
        places = torch.stack([order // (GRID * MERGE), order % (GRID * MERGE)], 1)
        cos, sin = visual.rotary_pos_emb(torch.zeros(1), places)
        self.register_buffer("order", order, persistent=False)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)

    def see(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Picture tokens and their deepstack companions, each [N, PICTURE_TOKENS, WIDTH].

        Args:
            pixels: [N, 3, SIDE, SIDE] in -1..1.
        """
        visual: Any = self.model.model.visual
        count = len(pixels)
        kernel = visual.patch_embed.proj.weight.sum(2).flatten(1)  # the frame is shown twice, as Qwen-VL does
        hidden = F.linear(patches(pixels), kernel, visual.patch_embed.proj.bias)
        hidden = hidden + visual.pos_embed(self.order)
        deep = hidden
        for index, block in enumerate(visual.blocks):
            hidden = hidden + self._attend(block.attn, block.norm1(hidden))
            hidden = hidden + block.mlp(block.norm2(hidden))
            if index in visual.deepstack_visual_indexes:
                deep = visual.deepstack_merger_list[0](hidden)
        merged = visual.merger(hidden)
        return merged.view(count, PICTURE_TOKENS, -1), deep.view(count, PICTURE_TOKENS, -1)

    def _attend(self, attention: Any, hidden: torch.Tensor) -> torch.Tensor:
        count, length, _ = hidden.shape
        parts = attention.qkv(hidden).view(count, length, 3, attention.num_heads, -1).unbind(2)
        query, key = apply_rotary_pos_emb_vision(parts[0], parts[1], self.cos, self.sin)
        query, key, value = (part.transpose(1, 2) for part in (query, key, parts[2]))
        weights = (attention.scaling * query @ key.mT).softmax(-1).to(value.dtype)
        projected: torch.Tensor = attention.proj((weights @ value).transpose(1, 2).reshape(count, length, -1))
        return projected

    def read(
        self, tokens: torch.Tensor, layout: Layout, seen: torch.Tensor, deep: torch.Tensor, answers: torch.Tensor
    ) -> torch.Tensor:
        """Logits of the words that follow the tokens at `answers`: [B, A, vocabulary].

        Args:
            tokens: int64 [B, T].
            layout: of all rows.
            seen: [B, pictures * PICTURE_TOKENS, WIDTH], of the row's pictures in turn.
            deep: as `seen`.
            answers: int64 [B, A].
        """
        language: Any = self.model.model.language_model
        slots = layout.pictures.nonzero().flatten()
        hidden = language.embed_tokens(tokens).index_copy(1, slots, seen.float())
        extra = torch.zeros_like(hidden).index_copy(1, slots, deep.to(hidden.dtype))
        rope = language.rotary_emb(hidden, layout.positions[:, None])
        for index, layer in enumerate(language.layers):
            hidden = layer(hidden, attention_mask=layout.mask[None, None], position_embeddings=rope)
            if index == 0:
                hidden = hidden + extra
        wanted = hidden.gather(1, answers[..., None].expand(-1, -1, hidden.shape[-1]))
        logits: torch.Tensor = self.model.lm_head(language.norm(wanted))
        return logits
