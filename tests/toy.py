"""A mixture of two Gaussians in the plane with its exact velocity, and a network that learns a difference to it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

MODES = torch.tensor([[-1.5, 0.0], [1.5, 0.0]])
SPREAD = 0.3
SIGMAS = torch.linspace(1, 0, 9)


def exact(x: Tensor, t: Tensor) -> Tensor:
    """E[eps - x_0 | x_t = x] for the mixture; x [B, 2], t [B]."""
    t = t.view(-1, 1)
    variance = (1 - t) ** 2 * SPREAD**2 + t**2
    distance = x[:, None] - (1 - t)[:, None] * MODES
    share = (-distance.square().sum(-1) / (2 * variance)).softmax(1)
    slope = (t - (1 - t) * SPREAD**2) / variance
    return (share[..., None] * (slope[:, None] * distance - MODES)).sum(1)


class Toy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(3, 64), nn.SiLU(), nn.Linear(64, 64), nn.SiLU(), nn.Linear(64, 2))
        for parameter in self.net[-1].parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return exact(x, t) + self.net(torch.cat([x, t.view(-1, 1)], 1))
