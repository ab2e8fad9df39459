"""OmniAID's network: a CLIP tower whose attention matrices carry low-rank experts, chosen per picture by a router.

After Guo et al. 2025 (arXiv 2511.08423), "hybrid" form, inference only. Every projection W of every self-attention is
replaced by W0 + sum_e g_e U_e diag(S_e) V_e: W0 is CLIP's matrix without its smallest singular directions, and each
expert e holds directions of its own. The router reads the pooled features of an untouched CLIP tower and gives the two
best semantic experts softmax weights; the last expert, for artefacts, always has weight 1. The head gives two logits,
real and generated.

All experts are applied at once, with weight 0 for those that were not chosen, so that a batch needs no gathering.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F
from transformers import CLIPVisionConfig, CLIPVisionModel
from transformers.models.clip.modeling_clip import CLIPMLP, CLIPVisionEmbeddings

PROJECTIONS = ("q_proj", "k_proj", "v_proj", "out_proj")
#: kept in checkpoints for the training loss and for new experts; inference needs none of them
_UNUSED = re.compile(r"\.(U_r|V_r|weight_original_fnorm)$|(^|\.)position_ids$")


@dataclass(frozen=True)
class OmniAidSizes:
    """Everything about the network that its tensors show, but for the number of heads.

    Attributes:
        width: of the tower.
        layers: of the tower.
        mlp: width of its MLPs.
        patch: side of a patch in pixels.
        grid: patches per side.
        experts: semantic ones and the artefact one.
        rank: of an expert.
        router: hidden width of the router.
        head_width: of an attention head; 64 in every CLIP tower.
        chosen: semantic experts per picture.
    """

    width: int
    layers: int
    mlp: int
    patch: int
    grid: int
    experts: int
    rank: int
    router: int
    head_width: int = 64
    chosen: int = 2

    @property
    def image(self) -> int:
        """Side of a picture in pixels."""
        return self.patch * self.grid

    @classmethod
    def read(cls, state: Mapping[str, torch.Tensor]) -> OmniAidSizes:
        """Read the sizes off a published state dict.

        Raises:
            KeyError: a tensor that every checkpoint has is missing.
        """
        first = "encoder_layers.0.self_attn.q_proj"
        experts = sum(name.startswith(f"{first}.S_experts.") for name in state)
        places = state["embeddings.position_embedding.weight"].shape[0] - 1
        return cls(
            width=state["head.weight"].shape[1],
            layers=len({name.split(".")[1] for name in state if name.startswith("encoder_layers.")}),
            mlp=state["encoder_layers.0.mlp.fc1.weight"].shape[0],
            patch=state["embeddings.patch_embedding.weight"].shape[-1],
            grid=round(places**0.5),
            experts=experts,
            rank=state[f"{first}.S_experts.0"].shape[0],
            router=state["gating_network.network.0.weight"].shape[0],
        )


#: of the published checkpoint_omniaid_v2.pth, after its authors' test script
PUBLISHED = OmniAidSizes(width=1024, layers=24, mlp=4096, patch=14, grid=24, experts=6, rank=1, router=256)


class ExpertLinear(nn.Module):
    """A linear map with experts: x W0' + (x V' * S * g) U' + b.

    Attributes:
        weight_main: W0 [width, width].
        U_experts, S_experts, V_experts: of each expert [width, rank], [rank], [rank, width].
    """

    weight_main: torch.Tensor

    def __init__(self, width: int, experts: int, rank: int) -> None:
        super().__init__()
        self.register_buffer("weight_main", torch.empty(width, width))
        self.U_experts = nn.ParameterList(nn.Parameter(torch.empty(width, rank)) for _ in range(experts))
        self.S_experts = nn.ParameterList(nn.Parameter(torch.empty(rank)) for _ in range(experts))
        self.V_experts = nn.ParameterList(nn.Parameter(torch.empty(rank, width)) for _ in range(experts))
        self.bias = nn.Parameter(torch.empty(width))
        self.rank = rank

    def forward(self, x: torch.Tensor, gates: torch.Tensor) -> torch.Tensor:
        """[B, T, width] and gates [B, experts] to [B, T, width]."""
        inner = F.linear(x, torch.cat(list(self.V_experts)))
        scale = torch.cat(list(self.S_experts)) * gates.repeat_interleave(self.rank, 1)
        extra = F.linear(inner * scale[:, None], torch.cat(list(self.U_experts), 1))
        return F.linear(x, self.weight_main, self.bias) + extra


class ExpertAttention(nn.Module):
    """Multi-head self-attention whose four projections have experts."""

    def __init__(self, sizes: OmniAidSizes) -> None:
        super().__init__()
        self.heads = sizes.width // sizes.head_width
        for name in PROJECTIONS:
            self.add_module(name, ExpertLinear(sizes.width, sizes.experts, sizes.rank))

    def forward(self, x: torch.Tensor, gates: torch.Tensor) -> torch.Tensor:
        """[B, T, width] and gates [B, experts] to [B, T, width]."""
        batch, tokens, width = x.shape
        query, key, value = (
            self.get_submodule(name)(x, gates).view(batch, tokens, self.heads, -1).transpose(1, 2)
            for name in PROJECTIONS[:3]
        )
        mixed = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).reshape(batch, tokens, width)
        result: torch.Tensor = self.get_submodule("out_proj")(mixed, gates)
        return result


class ExpertLayer(nn.Module):
    """A CLIP encoder layer with `ExpertAttention`."""

    def __init__(self, sizes: OmniAidSizes, config: CLIPVisionConfig) -> None:
        super().__init__()
        self.self_attn = ExpertAttention(sizes)
        self.layer_norm1 = nn.LayerNorm(sizes.width, eps=config.layer_norm_eps)
        self.mlp = CLIPMLP(config)
        self.layer_norm2 = nn.LayerNorm(sizes.width, eps=config.layer_norm_eps)

    def forward(self, x: torch.Tensor, gates: torch.Tensor) -> torch.Tensor:
        """[B, T, width] and gates [B, experts] to [B, T, width]."""
        x = x + self.self_attn(self.layer_norm1(x), gates)
        result: torch.Tensor = x + self.mlp(self.layer_norm2(x))
        return result


class Router(nn.Module):
    """Pooled CLIP features to a weight per semantic expert: softmax over the best ones, 0 for the others."""

    def __init__(self, sizes: OmniAidSizes) -> None:
        super().__init__()
        experts = sizes.experts - 1
        self.network = nn.Sequential(nn.Linear(sizes.width, sizes.router), nn.ReLU(), nn.Linear(sizes.router, experts))
        self.chosen = sizes.chosen

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """[B, width] to [B, experts - 1]."""
        logits: torch.Tensor = self.network(features)
        best = logits.topk(self.chosen, dim=-1)
        return torch.zeros_like(logits).scatter(-1, best.indices, best.values.softmax(-1))


class OmniAid(nn.Module):
    """The whole detector; module names are those of the published state dict."""

    def __init__(self, sizes: OmniAidSizes) -> None:
        super().__init__()
        config = CLIPVisionConfig(
            hidden_size=sizes.width,
            intermediate_size=sizes.mlp,
            num_hidden_layers=sizes.layers,
            num_attention_heads=sizes.width // sizes.head_width,
            image_size=sizes.image,
            patch_size=sizes.patch,
            hidden_act="quick_gelu",
            layer_norm_eps=1e-5,
            attn_implementation="sdpa",
        )
        self.sizes = sizes
        self.feature_extractor = CLIPVisionModel(config)
        self.embeddings = CLIPVisionEmbeddings(config)
        self.ln_pre = nn.LayerNorm(sizes.width)
        self.encoder_layers = nn.ModuleList(ExpertLayer(sizes, config) for _ in range(sizes.layers))
        self.ln_post = nn.LayerNorm(sizes.width, eps=config.layer_norm_eps)
        self.gating_network = Router(sizes)
        self.head = nn.Linear(sizes.width, 2)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Logits (real, generated), [B, 2]; pixels float [B, 3, image, image], CLIP mean and deviation."""
        semantic = self.gating_network(self.feature_extractor(pixels).pooler_output)
        gates = torch.cat((semantic, torch.ones_like(semantic[:, :1])), 1)
        x = self.ln_pre(self.embeddings(pixels))
        for layer in self.encoder_layers:
            x = layer(x, gates)
        logits: torch.Tensor = self.head(self.ln_post(x[:, 0]))
        return logits


def published_keys(sizes: OmniAidSizes) -> dict[str, torch.Size]:
    """Every tensor of the published layout and its shape, those that inference does not need included."""
    with torch.device("meta"):
        net = OmniAid(sizes)
    found = {name: value.shape for name, value in net.state_dict().items()}
    main = sizes.width - sizes.rank
    for layer in range(sizes.layers):
        for name in PROJECTIONS:
            place = f"encoder_layers.{layer}.self_attn.{name}"
            found[f"{place}.U_r"] = torch.Size((sizes.width, main))
            found[f"{place}.V_r"] = torch.Size((main, sizes.width))
            found[f"{place}.weight_original_fnorm"] = torch.Size(())
    return found


def load_omniaid(state: Mapping[str, torch.Tensor]) -> OmniAid:
    """The network with the weights of a published state dict, in float32.

    Raises:
        KeyError: a tensor that tells the sizes is missing.
        RuntimeError: tensors are missing, too many, or of another shape.
    """
    plain = {name.removeprefix("module."): value for name, value in state.items()}
    sizes = OmniAidSizes.read(plain)
    with torch.device("meta"):
        net = OmniAid(sizes)
    net.to_empty(device="cpu")
    for embeddings in net.modules():
        if isinstance(embeddings, CLIPVisionEmbeddings):  # its places are a buffer that no checkpoint keeps
            embeddings.position_ids = torch.arange(sizes.grid**2 + 1)[None]
    net.load_state_dict({name: value.float() for name, value in plain.items() if not _UNUSED.search(name)})
    return net
