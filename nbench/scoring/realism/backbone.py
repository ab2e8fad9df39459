"""A frozen timm backbone with a linear head: the usual detector of a lab with few pictures (Ojha et al. 2023)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from nbench.errors import ScorerError
from nbench.scoring.weights import load_tensors


class HeadOnBackbone(nn.Module):
    """Standardised features of a frozen backbone, and one linear output.

    Args:
        backbone: pixels [B, 3, H, W] to features [B, F].
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        width = int(cast(Any, backbone).num_features)
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("std", torch.ones(width))
        self.head = nn.Linear(width, 1)

    def features(self, pixels: torch.Tensor) -> torch.Tensor:
        """Standardised features, [B, F]."""
        found: torch.Tensor = self.backbone(pixels)
        return (found.float() - self.mean) / self.std

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Log-odds of real, [B]; `pixels` as the backbone takes them."""
        logits: torch.Tensor = self.head(self.features(pixels))[:, 0]
        return logits


def build_backbone(architecture: str, arguments: dict[str, Any]) -> nn.Module:
    """A timm network without classifier, random weights.

    Raises:
        ScorerError: timm knows no such network, or refuses the arguments.
    """
    import timm

    try:
        net: nn.Module = timm.create_model(architecture, pretrained=False, num_classes=0, **arguments)
    except (RuntimeError, TypeError) as error:
        raise ScorerError(
            f"timm cannot build the backbone {architecture!r} with {arguments} ({error}): take a folder in timm's hub "
            "layout, or another version of timm."
        ) from error
    return net


def read_backbone(folder: Path) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """The timm name, the arguments and the data configuration of a folder in timm's hub layout.

    Raises:
        ScorerError: it is no such folder.
    """
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        architecture = str(config["architecture"])
    except (OSError, ValueError, KeyError) as error:
        raise ScorerError(
            f"{folder} is no backbone in timm's hub layout ({error}): it needs config.json with an `architecture`, and "
            "model.safetensors, as `hf download timm/NAME --local-dir FOLDER` gives them."
        ) from error
    return architecture, dict(config.get("model_args") or {}), dict(config.get("pretrained_cfg") or {})


def backbone_size(folder: Path) -> int:
    """Side in pixels of the pictures that a backbone takes.

    Raises:
        ScorerError: the folder is no backbone, or does not say.
    """
    _, _, wanted = read_backbone(folder)
    try:
        return int(wanted["input_size"][-1])
    except (KeyError, TypeError, IndexError) as error:
        raise ScorerError(f"{folder / 'config.json'} does not say its input_size: pass --size.") from error


def load_backbone(folder: Path) -> tuple[nn.Module, str, dict[str, Any], dict[str, Any]]:
    """A timm backbone from a folder in timm's hub layout (config.json, model.safetensors).

    Returns:
        The network with its weights, its timm name, the arguments it is built with, and its data configuration
        (`input_size`, `mean`, `std`).

    Raises:
        ScorerError: the folder is no such thing, or the weights do not fit.
    """
    from timm.data.config import resolve_data_config

    architecture, arguments, given = read_backbone(folder)
    net = build_backbone(architecture, arguments)
    state = load_tensors(folder / "model.safetensors")
    classifier = cast(Any, net).pretrained_cfg.get("classifier") or "head"
    heads = (classifier,) if isinstance(classifier, str) else tuple(classifier)
    kept = {name: value for name, value in state.items() if not name.startswith(tuple(f"{head}." for head in heads))}
    try:
        net.load_state_dict(kept)
    except RuntimeError as error:
        said = " ".join(line.strip() for line in str(error).splitlines()[:2])[:200]
        raise ScorerError(f"{folder / 'model.safetensors'} does not fit {architecture} ({said}).") from error
    wanted = resolve_data_config(given, model=net)  # type: ignore[no-untyped-call]
    return net, architecture, arguments, dict(wanted)


def fit_head(net: HeadOnBackbone, features: torch.Tensor, labels: torch.Tensor, *, penalty: float = 1e-2) -> None:
    """Fit the head by ridge-penalised logistic regression; both sides count equally, whatever their sizes.

    Args:
        net: its `mean`, `std` and `head` are set.
        features: of the backbone, [n, F].
        labels: 1 for real, 0 for generated, [n].
        penalty: on the mean loss, times half the squared norm of the weights of standardised features.
    """
    features = features.double()
    mean, std = features.mean(0), features.std(0).clamp(min=1e-6)
    rows, truth = ((features - mean) / std).clone(), labels.double()
    share = truth.mean()
    balance = torch.where(truth > 0.5, 0.5 / share, 0.5 / (1 - share))
    weight = torch.zeros(rows.shape[1], dtype=torch.float64, requires_grad=True)
    bias = torch.zeros((), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        logits = rows @ weight + bias
        entropy = nn.functional.binary_cross_entropy_with_logits(logits, truth, weight=balance)
        value: torch.Tensor = entropy + 0.5 * penalty * weight.square().sum()
        value.backward()
        return value

    optimizer.step(loss)
    with torch.no_grad():
        net.mean.copy_(mean)
        net.std.copy_(std)
        net.head.weight.copy_(weight[None])
        net.head.bias.copy_(bias[None])
