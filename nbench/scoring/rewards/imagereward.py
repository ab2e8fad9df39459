"""imagereward-v1: ImageReward v1.0 (Xu et al., NeurIPS 2023), BLIP's picture and text encoders with a head.

The package image-reward 1.5 needs libraries of 2023; its network does not. The picture's encoder is timm's
VisionTransformer, the text's is transformers' BlipTextModel, which reads the picture by cross-attention, and the head
is five linear layers without activations. Only 35 tokens of a prompt are read.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

from nbench.errors import ScorerError
from nbench.scoring.encoder import exact_float32, refuse_shape
from nbench.scoring.layout import check_layout
from nbench.scoring.network import NetworkScorer
from nbench.scoring.rewards.clip_cosine import require_sound
from nbench.scoring.scorer import Metric, Score, ScorerCard
from nbench.scoring.weights import Source, load_tensors

if TYPE_CHECKING:
    from pathlib import Path

    import torch
    from PIL import Image

CHECKPOINT = Source(
    "zai-org/ImageReward", "5736be03b2652728fb87788c9797b0570450ab72", ("ImageReward.pt", "med_config.json")
)
WORDS = Source("google-bert/bert-base-uncased", "86b5e0934494bd15c9632b12f734a8a67f723594", ("vocab.txt",))
MEAN, DEVIATION = 0.16717362830052426, 1.0333394966054072  # of the raw reward on the authors' validation pictures
LENGTH = 35  # tokens of a prompt, its frame [CLS] ... [SEP] included
MARKS = 2  # [DEC] and [ENC], which BLIP puts after BERT's words and ImageReward never uses
HEAD_WIDTH = 64  # of an attention head of the picture's encoder, as in every ViT that BLIP has
PIXEL_MEAN, PIXEL_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
VISION, TEXT, HEAD = "blip.visual_encoder.", "blip.text_encoder.", "mlp.layers."
LAYERS = (0, 2, 4, 6, 7)  # places of the linear layers; dropouts stand between
UNUSED = ("blip.vision_proj.", "blip.text_proj.", "blip.text_encoder.embeddings.position_ids")


class _Parts(NamedTuple):
    vision: Any  # timm VisionTransformer
    text: Any  # transformers.BlipTextModel
    head: torch.nn.Sequential
    tokenizer: Any  # tokenizers.Tokenizer
    size: int  # pixels a side


class ImageReward(NetworkScorer):
    """The imagereward-v1 scorer."""

    about = ScorerCard(
        name="imagereward-v1",
        kind="reward",
        version="1",
        metrics=(Metric("", "higher", "standard scores on the authors' pictures, about -2 to 2"),),
        summary="Human preference: BLIP's encoders of picture and prompt with a head, trained on ranked generations; "
        f"reads {LENGTH} tokens of the prompt.",
        uses_prompt=True,
        preprocessing=f"PIL: shorter side to 224 (bicubic), centre crop, CLIP mean and std; BERT word pieces, {LENGTH} "
        f"tokens; the raw reward less {MEAN}, over {DEVIATION}; fp32 without TF32",
        licence="Apache-2.0",
        source="arXiv 2304.05977; image-reward 1.5; zai-org/ImageReward (once THUDM/ImageReward)",
    )
    sources = (CHECKPOINT, WORDS)

    def refusal(self, image: Image.Image, prompt: str) -> str | None:
        """No score for an empty prompt, and for a picture that is a mere strip."""
        return super().refusal(image, prompt) or refuse_shape(*image.size)

    def values(self, images: list[Image.Image], prompts: list[str]) -> list[Score]:
        """One number per picture, and whether its prompt was cut."""
        rewards = self._rewards(self.pixels(images).to(self.device), prompts).tolist()
        return [
            Score.of(reward, truncated=self.truncated(prompt))
            if math.isfinite(reward)
            else Score.failed(f"the network gave {reward}")
            for reward, prompt in zip(rewards, prompts, strict=True)
        ]

    def reward(self, images: torch.Tensor, prompts: Sequence[str]) -> torch.Tensor:
        """The same number as a differentiable function of the pixels; see `nbench.scoring.differentiable`.

        torch's antialiased bicubic filter stands for PIL's, without its rounding to bytes.
        """
        from torchvision.transforms.v2 import functional as F

        require_sound(self.about.name, images, prompts)
        size, images = self._parts.size, images.to(self.device).float()
        if min(images.shape[-2:]) != size:
            images = F.resize(images, [size], interpolation=F.InterpolationMode.BICUBIC, antialias=True).clamp(0, 1)
        pixels = F.normalize(F.center_crop(images, [size, size]), list(PIXEL_MEAN), list(PIXEL_STD))
        return self._rewards(pixels, prompts)

    def pixels(self, images: Sequence[Image.Image]) -> torch.Tensor:
        """Preprocessed pictures, float32 [B, 3, size, size], on the CPU."""
        import torch
        from torchvision import transforms

        size = self._parts.size
        prepare = transforms.Compose(
            [
                transforms.Resize(size, interpolation=transforms.InterpolationMode.BICUBIC),
                transforms.CenterCrop(size),
                transforms.ToTensor(),
                transforms.Normalize(PIXEL_MEAN, PIXEL_STD),
            ]
        )
        return torch.stack([prepare(image) for image in images])

    def tokens(self, prompts: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """Token ids and where there are any, both int64 [B, LENGTH], on the CPU."""
        import torch

        read = self._parts.tokenizer.encode_batch(list(prompts))
        return torch.tensor([row.ids for row in read]), torch.tensor([row.attention_mask for row in read])

    def truncated(self, prompt: str) -> bool:
        """Whether `tokens` cuts this prompt."""
        return bool(self._parts.tokenizer.encode(prompt).overflowing)

    def _rewards(self, pixels: torch.Tensor, prompts: Sequence[str]) -> torch.Tensor:
        """Scores [B] of prepared pictures."""
        import torch

        ids, mask = (part.to(self.device) for part in self.tokens(prompts))
        with exact_float32(self.device):
            seen = self._parts.vision.forward_features(pixels)
            hidden = self._parts.text(
                input_ids=ids,
                attention_mask=mask,
                encoder_hidden_states=seen,
                encoder_attention_mask=torch.ones(seen.shape[:2], dtype=torch.long, device=self.device),
            ).last_hidden_state  # is_decoder stays False: the text looks both ways
            raw: torch.Tensor = self._parts.head(hidden[:, 0]).squeeze(1)
        return (raw - MEAN) / DEVIATION

    @cached_property
    def _parts(self) -> _Parts:
        import torch

        with torch.inference_mode(False):  # weights made in inference mode could never carry a gradient
            return self._load()

    def _load(self) -> _Parts:
        from accelerate import init_empty_weights

        path = CHECKPOINT.path("ImageReward.pt")
        state = load_tensors(path)
        with init_empty_weights():
            vision, size = _vision(state, path)
            text = _text(CHECKPOINT.path("med_config.json"), vision.embed_dim)
            head = _head(text.config.hidden_size)
        parts = ((VISION, vision), (TEXT, text), (HEAD, head))
        check_layout(path, state, {at + n: t for at, net in parts for n, t in net.state_dict().items()}, unused=UNUSED)
        for at, network in parts:
            network.load_state_dict({name: state[at + name].float() for name in network.state_dict()}, assign=True)
            network.to(self.device).eval().requires_grad_(False)
        return _Parts(vision, text, head, _tokenizer(text.config.vocab_size), size)


def _vision(state: dict[str, torch.Tensor], path: Path) -> tuple[Any, int]:
    """The picture's encoder with the sizes that the checkpoint shows, and the pixels a side that it reads."""
    from timm.models.vision_transformer import VisionTransformer

    try:
        width, _, patch, _ = state[f"{VISION}patch_embed.proj.weight"].shape
        places = state[f"{VISION}pos_embed"].shape[1] - 1
    except (KeyError, ValueError, IndexError) as error:
        raise ScorerError(f"{path} holds no picture encoder ({error}): is it the right file?") from error
    depth = len({name.split(".")[3] for name in state if name.startswith(f"{VISION}blocks.")})
    size = patch * math.isqrt(places)
    vision = VisionTransformer(
        img_size=size,
        patch_size=patch,
        num_classes=0,
        embed_dim=width,
        depth=depth,
        num_heads=width // HEAD_WIDTH,
        weight_init="skip",
    )
    blocks: Any = vision.blocks
    for block in blocks:
        block.attn.fused_attn = True  # torch's scaled_dot_product_attention, whatever the environment says
    return vision, size


def _text(config: Path, seen: int) -> Any:
    """The text's encoder as med_config.json describes it, reading a picture of width `seen`."""
    from transformers import BlipTextConfig, BlipTextModel

    names = (
        "vocab_size",
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "max_position_embeddings",
        "hidden_act",
        "layer_norm_eps",
        "pad_token_id",
    )
    try:
        given = json.loads(config.read_text(encoding="utf-8"))
        settings = {name: given[name] for name in names}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ScorerError(f"{config} is no BERT configuration ({error!r}): fetch it again.") from error
    # is_decoder gives it cross-attention; bos_token_id would be checked against the vocabulary, and nothing is written
    made = BlipTextConfig(**settings, encoder_hidden_size=seen, is_decoder=True, bos_token_id=None)
    text = BlipTextModel(made, add_pooling_layer=False)
    text.set_attn_implementation("eager")  # the only one it has
    return text


def _head(width: int) -> torch.nn.Sequential:
    """From `width` by 1024, 128, 64 and 16 to 1 number, linear; the dropouts keep their places in the numbering."""
    from torch import nn

    return nn.Sequential(
        nn.Linear(width, 1024),
        nn.Dropout(0.2),
        nn.Linear(1024, 128),
        nn.Dropout(0.2),
        nn.Linear(128, 64),
        nn.Dropout(0.1),
        nn.Linear(64, 16),
        nn.Linear(16, 1),
    )


def _tokenizer(rows: int) -> Any:
    """BERT's word pieces in lower case, cut and filled up to LENGTH; a mark such as [SEP] in a prompt is mere text.

    Raises:
        ScorerError: it does not fit the checkpoint.
    """
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    path = WORDS.path("vocab.txt")
    try:
        tokenizer: Any = Tokenizer(models.WordPiece.from_file(str(path), unk_token="[UNK]"))
        end, start = ((mark, tokenizer.token_to_id(mark)) for mark in ("[SEP]", "[CLS]"))
        tokenizer.post_processor = processors.BertProcessing(end, start)
    except Exception as error:  # tokenizers raises bare exceptions
        raise ScorerError(f"{path} is no BERT vocabulary ({error}): fetch it again.") from error
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    if tokenizer.get_vocab_size() + MARKS != rows:
        raise ScorerError(
            f"{path} does not fit {CHECKPOINT.repo}: {tokenizer.get_vocab_size()} word pieces where the checkpoint has "
            f"{rows} rows less {MARKS}. Fetch it again at the pinned commit."
        )
    tokenizer.enable_truncation(LENGTH)
    tokenizer.enable_padding(length=LENGTH, pad_id=tokenizer.token_to_id("[PAD]"))
    return tokenizer


def create(device: str) -> ImageReward:
    """Entry point of the scorer."""
    return ImageReward(device)
