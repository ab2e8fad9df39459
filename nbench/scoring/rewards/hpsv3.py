"""hpsv3: HPSv3 (Ma, Shui et al., ICCV 2025), a small head on Qwen2-VL-7B that reads picture, prompt and a rubric.

The package hpsv3 1.0.0 needs transformers 4.45.2; this gives its numbers under transformers 5. Two properties of the
old version belong to the model, because it was trained with them, and transformers 5 has neither by itself:

* Positions are plain: every token, of the picture or not, is one further than the last. (Qwen2-VL was made for
  positions over time, height and width; later code that hands the picture's grid to the model gets other scores.)
* The rotary frequencies are rounded to bfloat16, since the package casts buffers together with the weights.
"""

from __future__ import annotations

import math
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

from nbench.errors import ScorerError
from nbench.scoring.encoder import exact_float32
from nbench.scoring.layout import check_layout
from nbench.scoring.network import NetworkScorer
from nbench.scoring.rewards.hpsv3_prompt import PICTURE, REWARD, reward_text
from nbench.scoring.scorer import Metric, Score, ScorerCard, Variant
from nbench.scoring.weights import Source, load_tensors

if TYPE_CHECKING:
    import torch
    from PIL import Image

CHECKPOINT = Source("MizzenAI/HPSv3", "4f81e3e09edd82fe3c5f636444c721b592a735ca", ("HPSv3.safetensors",))
BASE = Source(
    "Qwen/Qwen2-VL-7B-Instruct", "eed13092ef92e448dd6875b2a00151bd3f7db0ac", ("config.json", "tokenizer.json")
)
PIXELS = 256 * 28 * 28  # of every picture, about: both the least and the most
MERGED = 4  # patches that become one token
SLIMMEST = 200  # longest side over shortest side that the picture's encoder takes
TABLE, HEAD = "model.embed_tokens.weight", "rm_head."


class _Parts(NamedTuple):
    body: Any  # transformers.Qwen2VLModel
    head: torch.nn.Module  # hidden state -> (mu, log sigma)
    tokenizer: Any  # tokenizers.Tokenizer


class HPSv3(NetworkScorer):
    """The hpsv3 scorer: mu of the published model.

    One picture per forward: nothing is padded, any mixture of sizes goes, and a row's bits depend on nothing else. One
    row has some 850 tokens, so a GPU computes on it for longer than it reads the weights.
    """

    about = ScorerCard(
        name="hpsv3",
        kind="reward",
        version="1",
        metrics=(Metric("", "higher", "unbounded, about 0 to 15; compare only on the same prompts"),),
        summary="Human preference score v3: a head on Qwen2-VL-7B that read picture, prompt and a rubric.",
        uses_prompt=True,
        preprocessing="PIL bicubic to about 200704 pixels, sides multiples of 28, CLIP mean and std; the published "
        "rubric in the base model's chat template, read at <|Reward|>; plain 1-D positions and bfloat16 rotary "
        "frequencies as under transformers 4.45.2; body bfloat16, sdpa attention, head fp32; mu, the first of two "
        "outputs",
        licence="Apache-2.0 (weights and base), MIT (rubric text)",
        source="arXiv 2508.03789; hpsv3 1.0.0; MizzenAI/HPSv3 on Qwen/Qwen2-VL-7B-Instruct",
        heavy=True,
        variants=(
            Variant("over-15", 1 / 15, "about 0 to 1", "RealGen"),
            Variant("x0.1", 0.1, "about 0 to 1.5", "verl-omni"),
        ),
    )
    sources = (CHECKPOINT, BASE)
    rows_per_forward = 1
    precision = "bfloat16"  # that the body computes in; its weights are bfloat16 in any case

    def refusal(self, image: Image.Image, prompt: str) -> str | None:
        """Also: a picture too slim, or a prompt with one of the model's control tokens, which would steer it."""
        reason = super().refusal(image, prompt)
        if reason is not None:
            return reason
        if max(image.size) > SLIMMEST * min(image.size):
            return f"the picture is {image.width} x {image.height}: a side is over {SLIMMEST} times the other"
        controls = {token.content for token in self._parts.tokenizer.get_added_tokens_decoder().values()}
        found = sorted(token for token in controls if token in prompt)
        return f"the prompt holds the control token {found[0]}" if found else None

    def values(self, images: list[Image.Image], prompts: list[str]) -> list[Score]:
        """The score, mu, of each picture."""
        scores = []
        for image, prompt in zip(images, prompts, strict=True):
            mu, _ = self.outputs(image, prompt)
            found = math.isfinite(mu)
            scores.append(Score.of(mu, truncated=False) if found else Score.failed(f"the network gave {mu}"))
        return scores

    def outputs(self, image: Image.Image, prompt: str) -> tuple[float, float]:
        """Both outputs of the model, mu and the logarithm of its standard deviation, for one RGB picture."""
        import torch

        body, head, tokenizer = self._parts
        patches, grid = picture_patches(image)
        slots = int(grid.prod()) // MERGED
        ids = tokenizer.encode(reward_text(prompt, slots), add_special_tokens=False).ids
        at = ids.index(tokenizer.token_to_id(REWARD))
        # what follows the reward token cannot reach it: attention looks back only
        tokens = torch.tensor([ids[: at + 1]], device=self.device)
        positions = torch.arange(at + 1, device=self.device).expand(3, 1, -1)
        with exact_float32(self.device):
            hidden = body(
                input_ids=tokens,
                position_ids=positions,
                pixel_values=patches.to(self.device),
                image_grid_thw=grid.to(self.device),
                use_cache=False,
            ).last_hidden_state
            mu, log_sigma = head(hidden[0, at].float()).tolist()
        return mu, log_sigma

    @cached_property
    def _parts(self) -> _Parts:
        import torch

        with torch.inference_mode(False):  # the first score comes in inference mode, whose tensors no module takes
            return self._load()

    def _load(self) -> _Parts:
        import torch
        from accelerate import init_empty_weights
        from transformers import Qwen2VLConfig, Qwen2VLModel

        path = CHECKPOINT.path("HPSv3.safetensors")
        state = load_tensors(path)
        try:
            config = Qwen2VLConfig.from_pretrained(BASE.folder())
        except (OSError, ValueError, TypeError) as error:
            said = str(error).strip().splitlines()[0][:160]
            raise ScorerError(f"{BASE.path('config.json')} is no Qwen2-VL config ({said}): fetch it again.") from error
        rows = state[TABLE].shape[0] if TABLE in state else 0
        config.text_config.vocab_size = rows
        with init_empty_weights():
            body, head = Qwen2VLModel(config), _head(config.text_config.hidden_size)
        body.set_attn_implementation("sdpa")
        names = {_published(name): name for name in body.state_dict()}
        wanted = {name: body.state_dict()[new] for name, new in names.items()}
        wanted |= {HEAD + name: tensor for name, tensor in head.state_dict().items()}
        check_layout(path, state, wanted, unused=("lm_head.",))  # no words are predicted here
        body.load_state_dict({new: state[name].bfloat16() for name, new in names.items()}, assign=True)
        head.load_state_dict({name: state[HEAD + name].float() for name in head.state_dict()}, assign=True)
        body.bfloat16().to(getattr(torch, self.precision))  # the first rounds the rotary frequencies too
        for network in (body, head):
            network.to(self.device).eval().requires_grad_(False)
        return _Parts(body, head, _tokenizer(rows, config.image_token_id))


def picture_patches(image: Image.Image) -> tuple[torch.Tensor, torch.Tensor]:
    """A picture as the base model's encoder takes it.

    Args:
        image: RGB, no side more than SLIMMEST times the other.

    Returns:
        float32 [patches, values of a patch], and int64 [1, 3]: patches over time (1), height and width; a patch has 14
        pixels a side.
    """
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    processor = Qwen2VLImageProcessorPil(size={"shortest_edge": PIXELS, "longest_edge": PIXELS})
    seen = processor([image], return_tensors="pt")
    return seen["pixel_values"], seen["image_grid_thw"]


def _published(name: str) -> str:
    """Name in the checkpoint of a tensor of today's Qwen2VLModel."""
    words = "language_model."
    return f"model.{name.removeprefix(words)}" if name.startswith(words) else name


def _head(hidden: int) -> torch.nn.Module:
    """From `hidden` by 1024 and 16 to 2 numbers, with ReLU between; the dropout keeps its place in the numbering."""
    from torch import nn

    return nn.Sequential(
        nn.Linear(hidden, 1024), nn.ReLU(), nn.Dropout(0.05), nn.Linear(1024, 16), nn.ReLU(), nn.Linear(16, 2)
    )


def _tokenizer(rows: int, picture: int) -> Any:
    """The base model's tokenizer with the reward token as its last.

    Raises:
        ScorerError: it does not fit the checkpoint.
    """
    from tokenizers import AddedToken, Tokenizer

    path = BASE.path("tokenizer.json")
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # tokenizers raises bare exceptions
        raise ScorerError(f"{path} is no tokenizer ({error}): fetch it again.") from error
    tokenizer.add_special_tokens([AddedToken(REWARD, special=True, normalized=False)])
    found = (tokenizer.get_vocab_size(), tokenizer.token_to_id(REWARD), tokenizer.token_to_id(PICTURE))
    if found != (rows, rows - 1, picture):
        raise ScorerError(
            f"{path} does not fit {CHECKPOINT.repo}: {found[0]} words with {REWARD} as {found[1]} and {PICTURE} as "
            f"{found[2]}, where the checkpoint has {rows} rows and the config {PICTURE} as {picture}. Fetch it again "
            "at the pinned commit."
        )
    return tokenizer


def create(device: str) -> HPSv3:
    """Entry point of the scorer."""
    return HPSv3(device)
