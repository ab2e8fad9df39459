"""The CLIP families that scorers stand on: transformers' CLIPModel behind PIL, open_clip behind a letter-box.

Scorers that stand on the same weights get the same network (`shared_clip`), and a picture that one of them has just
encoded is not encoded again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from weakref import WeakValueDictionary

from nbench.errors import ScorerError, first_line
from nbench.scoring.encoder import Backbone, load_strictly
from nbench.scoring.letterbox import letter_box
from nbench.scoring.weights import Source, load_tensors

if TYPE_CHECKING:
    import torch
    from PIL import Image

T = TypeVar("T")

MEAN = (0.48145466, 0.4578275, 0.40821073)  # of CLIP's training pictures, as published
STD = (0.26862954, 0.26130258, 0.27577711)

#: what both CLIPScore and the LAION aesthetic head stand on; also for diversity in its features
CLIP_L14 = Source(
    "openai/clip-vit-large-patch14",
    "32bd64288804d66eefd0ccbe215aa642df71cc41",
    (
        "config.json",
        "model.safetensors|pytorch_model.bin",
        "preprocessor_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
    ),
)


class HuggingFaceClip(Backbone):
    """transformers' CLIPModel, with the sizes of its own config.json; shorter side to size, centre crop, through PIL.

    Args:
        weights: holds config.json and the model.
        processor: holds preprocessor_config.json and the tokenizer; may be the same source.
        device: torch device string.
    """

    def __init__(self, weights: Source, processor: Source, device: str) -> None:
        super().__init__(device)
        self._weights = weights
        self._processor = processor

    @cached_property
    def _model(self) -> Any:
        import torch
        from accelerate import init_empty_weights
        from transformers import CLIPConfig, CLIPModel

        path = self._weights.path("model.safetensors|pytorch_model.bin")
        config = _read(CLIPConfig.from_pretrained, self._weights.path("config.json"))
        with torch.inference_mode(False):  # weights made in inference mode could never carry a gradient
            tensors = {
                name: tensor
                for name, tensor in load_tensors(path).items()
                if not name.endswith(".position_ids")  # 0, 1, 2, ...: files of older transformers carry them
            }
            with init_empty_weights(include_buffers=False):
                model = CLIPModel(config)
            model.set_attn_implementation("sdpa")
            return load_strictly(model, tensors, path).to(self.device)

    @cached_property
    def _images(self) -> Any:
        from transformers import CLIPImageProcessorPil

        return _read(CLIPImageProcessorPil.from_pretrained, self._processor.path("preprocessor_config.json"))

    @cached_property
    def _tokenizer(self) -> Any:
        from transformers import CLIPTokenizer

        return _read(CLIPTokenizer.from_pretrained, self._processor.path("tokenizer.json"))

    def pixels(self, images: Sequence[Image.Image]) -> torch.Tensor:
        """See `Backbone.pixels`; PIL's bicubic filter, rounded to bytes."""
        pixels: torch.Tensor = self._images(images=list(images), return_tensors="pt")["pixel_values"]
        return pixels

    def tensor_pixels(self, images: torch.Tensor) -> torch.Tensor:
        """See `Backbone.tensor_pixels`; torch's antialiased bicubic filter stands for PIL's, without its rounding."""
        from torchvision.transforms.v2 import functional as F

        size, crop = int(self._images.size.shortest_edge), int(self._images.crop_size.height)
        if min(images.shape[-2:]) != size:
            images = F.resize(images, [size], interpolation=F.InterpolationMode.BICUBIC, antialias=True).clamp(0, 1)
        top, left = (images.shape[-2] - crop) // 2, (images.shape[-1] - crop) // 2  # torchvision's own rounds to even
        cut = images[..., top : top + crop, left : left + crop]
        pixels: torch.Tensor = F.normalize(cut, list(self._images.image_mean), list(self._images.image_std))
        return pixels

    @property
    def _length(self) -> int:
        return int(self._model.config.text_config.max_position_embeddings)

    def tokens(self, texts: Sequence[str]) -> torch.Tensor:
        """See `Backbone.tokens`; filled up to the text length, so that all forwards have one shape."""
        tokens: torch.Tensor = self._tokenizer(
            list(texts), padding="max_length", truncation=True, max_length=self._length, return_tensors="pt"
        )["input_ids"]
        return tokens

    def truncated(self, text: str) -> bool:
        """See `Backbone.truncated`."""
        return len(self._tokenizer(text, verbose=False)["input_ids"]) > self._length

    @cached_property
    def logit_scale(self) -> float:
        """See `Backbone.logit_scale`."""
        return float(self._model.logit_scale.exp())

    def _encode_pixels(self, pixels: torch.Tensor) -> torch.Tensor:
        features: torch.Tensor = self._model.get_image_features(pixel_values=pixels).pooler_output
        return features

    def _encode_tokens(self, tokens: torch.Tensor) -> torch.Tensor:
        # without an attention mask: the encoder is causal, and what fills up comes after the token that is read
        features: torch.Tensor = self._model.get_text_features(input_ids=tokens).pooler_output
        return features


class OpenClip(Backbone):
    """An open_clip model from one checkpoint file; pictures are letter-boxed as tensors.

    Args:
        architecture: an open_clip model name; sizes come from open_clip's own table.
        path: the checkpoint.
        device: torch device string.
    """

    def __init__(self, architecture: str, path: Path, device: str) -> None:
        super().__init__(device)
        self._architecture = architecture
        self._path = path

    @cached_property
    def _config(self) -> dict[str, Any]:
        import open_clip

        config: dict[str, Any] = open_clip.get_model_config(self._architecture)
        return config

    @cached_property
    def _model(self) -> Any:
        import torch

        with torch.inference_mode(False):  # as above
            tensors = load_tensors(self._path)
            return load_strictly(empty_open_clip(self._config), tensors, self._path).to(self.device)

    @cached_property
    def _tokenizer(self) -> Any:
        import open_clip

        return open_clip.SimpleTokenizer(context_length=self._config["text_cfg"]["context_length"])

    @property
    def size(self) -> int:
        """Pixels a side."""
        return int(self._config["vision_cfg"]["image_size"])

    def pixels(self, images: Sequence[Image.Image]) -> torch.Tensor:
        """See `Backbone.pixels`; each picture by itself, as their shapes may differ."""
        import torch
        from torchvision.transforms.v2 import functional as F

        return torch.cat([self._prepared(F.pil_to_tensor(image)[None].float() / 255) for image in images])

    def tensor_pixels(self, images: torch.Tensor) -> torch.Tensor:
        """See `Backbone.tensor_pixels`; the same code as for pictures, so equal to it on their bytes / 255."""
        return self._prepared(images)

    def _prepared(self, images: torch.Tensor) -> torch.Tensor:
        from torchvision.transforms.v2 import functional as F

        pixels: torch.Tensor = F.normalize(letter_box(images, self.size), list(MEAN), list(STD))
        return pixels

    def tokens(self, texts: Sequence[str]) -> torch.Tensor:
        """See `Backbone.tokens`."""
        tokens: torch.Tensor = self._tokenizer(list(texts))
        return tokens

    def truncated(self, text: str) -> bool:
        """See `Backbone.truncated`; start and end marks count."""
        return bool(len(self._tokenizer.encode(text)) + 2 > self._tokenizer.context_length)

    @cached_property
    def logit_scale(self) -> float:
        """See `Backbone.logit_scale`."""
        return float(self._model.logit_scale.exp())

    def _encode_pixels(self, pixels: torch.Tensor) -> torch.Tensor:
        features: torch.Tensor = self._model.encode_image(pixels)
        return features

    def _encode_tokens(self, tokens: torch.Tensor) -> torch.Tensor:
        features: torch.Tensor = self._model.encode_text(tokens)
        return features


#: networks that somebody holds; one that nobody holds any more is gone from here and from memory
_HELD: WeakValueDictionary[tuple[str, ...], Any] = WeakValueDictionary()


def shared_clip(weights: Source, device: str, processor: Source | None = None) -> HuggingFaceClip:
    """The CLIPModel of a source: one for all who ask while any of them holds it.

    Args:
        weights: holds config.json and the model.
        device: torch device string.
        processor: holds preprocessor_config.json and the tokenizer, where that is another source.

    Raises:
        ScorerError: the files cannot be had.
    """
    processor = processor or weights
    key = (str(weights.folder()), str(processor.folder()), device)
    found: HuggingFaceClip | None = _HELD.get(key)
    if found is None:
        found = _HELD[key] = HuggingFaceClip(weights, processor, device)
    return found


def shared_open_clip(architecture: str, path: Path, device: str) -> OpenClip:
    """The open_clip model of a checkpoint file: one for all who ask while any of them holds it.

    Args:
        architecture: an open_clip model name.
        path: the checkpoint.
        device: torch device string.
    """
    key = (architecture, str(path), device)
    found: OpenClip | None = _HELD.get(key)
    if found is None:
        found = _HELD[key] = OpenClip(architecture, path, device)
    return found


def empty_open_clip(config: Mapping[str, Any]) -> Any:
    """An open_clip model without weights: parameters on the meta device, buffers real.

    Args:
        config: embed_dim, vision_cfg, text_cfg, as open_clip's model configs have them.
    """
    import open_clip
    from accelerate import init_empty_weights

    with init_empty_weights(include_buffers=False):
        return open_clip.CLIP(**config)


def _read(load: Callable[..., T], path: Path) -> T:
    """What `load` makes of the folder of a config file.

    Raises:
        ScorerError: it cannot be read.
    """
    try:
        return load(path.parent, local_files_only=True)
    except (OSError, ValueError, KeyError, TypeError) as error:
        said = first_line(error, 160)
        raise ScorerError(f"{path} cannot be read ({said}): fetch it again.") from error
