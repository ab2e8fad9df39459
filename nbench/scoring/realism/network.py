"""The network of detectors that nbench trains itself: a small conv net that tells real from generated."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

HIDDEN = 64


class RealismNet(nn.Module):
    """Conv net whose every layer is pooled (mean, deviation and maximum over space), and a small head on all of them.

    What gives a generated picture away may be a texture, which early layers see, or a bent shape, which late ones do.
    It takes pictures of any size from 2^len(widths) pixels up. The convolutions are those of `nbench.pocket.probe`, so
    that a detector can start from them.

    Args:
        widths: channels after each halving.
        dropout: share of pooled features left out in training.
    """

    def __init__(self, widths: Sequence[int], dropout: float = 0.2) -> None:
        super().__init__()
        first, *rest = widths
        layers = [_conv(3, first, kernel=4, stride=2)]
        pooled = first
        for before, after in zip(widths, rest, strict=False):
            layers += [_conv(before, after, kernel=3, stride=2), _conv(after, after, kernel=3, stride=1)]
            pooled += 2 * after
        self.body = nn.Sequential(*layers)
        self.head = nn.Sequential(
            nn.BatchNorm1d(3 * pooled),
            nn.Dropout(dropout),
            nn.Linear(3 * pooled, HIDDEN),
            nn.GELU(),
            nn.Linear(HIDDEN, 1),
        )

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Log-odds of real, [B]; `pixels` float [B, 3, H, W] in [-1, 1]."""
        x, pooled = pixels, []
        for layer in self.body:
            x = layer(x)
            wide = x.float()
            pooled += [wide.mean((2, 3)), (wide.var((2, 3), correction=0) + 1e-5).sqrt(), wide.amax((2, 3))]
        logits: torch.Tensor = self.head(torch.cat(pooled, 1))[:, 0]
        return logits


def _conv(before: int, after: int, *, kernel: int, stride: int) -> nn.Sequential:
    conv = nn.Conv2d(before, after, kernel, stride, padding=1, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(after), nn.ReLU())
