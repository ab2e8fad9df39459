"""Which tensors a published CLIP file holds: names and shapes, written out rather than taken from a library.

So a loader that reads files of these layouts reads the published ones. With `CLIP_L14` and `CLIP_H14` the networks have
their full size.
"""

from __future__ import annotations

from dataclasses import dataclass

Shapes = dict[str, tuple[int, ...]]

LENGTH, VOCABULARY = 77, 49408


@dataclass(frozen=True)
class ClipSizes:
    """Sizes of a CLIP model. A head has 64 numbers in the published models, but 80 in the vision tower of ViT-H/14.

    Attributes:
        image: pixels a side.
        patch: pixels a side of a patch.
        vision: width of the vision tower.
        vision_layers: its depth.
        vision_heads: its attention heads.
        text: width of the text tower.
        text_layers: its depth.
        text_heads: its attention heads.
        joint: width of the features that are compared.
        activation: "quick_gelu" (OpenAI's) or "gelu" (LAION's).
    """

    image: int = 32
    patch: int = 8
    vision: int = 32
    vision_layers: int = 2
    vision_heads: int = 2
    text: int = 32
    text_layers: int = 2
    text_heads: int = 2
    joint: int = 16
    activation: str = "gelu"

    @property
    def places(self) -> int:
        """Positions of the vision tower: the class token and the patches."""
        return (self.image // self.patch) ** 2 + 1


TINY = ClipSizes()
CLIP_L14 = ClipSizes(224, 14, 1024, 24, 16, 768, 12, 12, 768, "quick_gelu")
CLIP_H14 = ClipSizes(224, 14, 1280, 32, 16, 1024, 24, 16, 1024, "gelu")


def hugging_face_tensors(sizes: ClipSizes = TINY) -> Shapes:
    """Names and shapes in the file of a transformers CLIPModel, such as PickScore's and OpenAI's."""
    shapes: Shapes = {"logit_scale": ()}
    shapes["text_model.embeddings.token_embedding.weight"] = (VOCABULARY, sizes.text)
    shapes["text_model.embeddings.position_embedding.weight"] = (LENGTH, sizes.text)
    for layer in range(sizes.text_layers):
        _hugging_face_layer(shapes, f"text_model.encoder.layers.{layer}", sizes.text)
    _norm(shapes, "text_model.final_layer_norm", sizes.text)
    shapes["vision_model.embeddings.class_embedding"] = (sizes.vision,)
    shapes["vision_model.embeddings.patch_embedding.weight"] = (sizes.vision, 3, sizes.patch, sizes.patch)
    shapes["vision_model.embeddings.position_embedding.weight"] = (sizes.places, sizes.vision)
    _norm(shapes, "vision_model.pre_layrnorm", sizes.vision)
    for layer in range(sizes.vision_layers):
        _hugging_face_layer(shapes, f"vision_model.encoder.layers.{layer}", sizes.vision)
    _norm(shapes, "vision_model.post_layernorm", sizes.vision)
    shapes["visual_projection.weight"] = (sizes.joint, sizes.vision)
    shapes["text_projection.weight"] = (sizes.joint, sizes.text)
    return shapes


def _hugging_face_layer(shapes: Shapes, name: str, width: int) -> None:
    for part in ("k_proj", "v_proj", "q_proj", "out_proj"):
        _linear(shapes, f"{name}.self_attn.{part}", width, width)
    _norm(shapes, f"{name}.layer_norm1", width)
    _linear(shapes, f"{name}.mlp.fc1", width, 4 * width)
    _linear(shapes, f"{name}.mlp.fc2", 4 * width, width)
    _norm(shapes, f"{name}.layer_norm2", width)


def open_clip_tensors(sizes: ClipSizes = TINY) -> Shapes:
    """Names and shapes in the state dict of an open_clip CLIP, such as HPSv2's."""
    shapes: Shapes = {"logit_scale": (), "positional_embedding": (LENGTH, sizes.text)}
    shapes["token_embedding.weight"] = (VOCABULARY, sizes.text)
    shapes["text_projection"] = (sizes.text, sizes.joint)
    for layer in range(sizes.text_layers):
        _open_clip_layer(shapes, f"transformer.resblocks.{layer}", sizes.text)
    _norm(shapes, "ln_final", sizes.text)
    shapes["visual.class_embedding"] = (sizes.vision,)
    shapes["visual.positional_embedding"] = (sizes.places, sizes.vision)
    shapes["visual.conv1.weight"] = (sizes.vision, 3, sizes.patch, sizes.patch)
    shapes["visual.proj"] = (sizes.vision, sizes.joint)
    _norm(shapes, "visual.ln_pre", sizes.vision)
    for layer in range(sizes.vision_layers):
        _open_clip_layer(shapes, f"visual.transformer.resblocks.{layer}", sizes.vision)
    _norm(shapes, "visual.ln_post", sizes.vision)
    return shapes


def _open_clip_layer(shapes: Shapes, name: str, width: int) -> None:
    _norm(shapes, f"{name}.ln_1", width)
    shapes[f"{name}.attn.in_proj_weight"], shapes[f"{name}.attn.in_proj_bias"] = (3 * width, width), (3 * width,)
    _linear(shapes, f"{name}.attn.out_proj", width, width)
    _norm(shapes, f"{name}.ln_2", width)
    _linear(shapes, f"{name}.mlp.c_fc", width, 4 * width)
    _linear(shapes, f"{name}.mlp.c_proj", 4 * width, width)


def aesthetic_tensors(width: int = TINY.joint) -> Shapes:
    """Names and shapes in the file of the LAION aesthetic head: an nn.Sequential whose other places are dropouts."""
    shapes: Shapes = {}
    for place, into, out in ((0, width, 1024), (2, 1024, 128), (4, 128, 64), (6, 64, 16), (7, 16, 1)):
        _linear(shapes, f"layers.{place}", into, out)
    return shapes


def _linear(shapes: Shapes, name: str, into: int, out: int) -> None:
    shapes[f"{name}.weight"], shapes[f"{name}.bias"] = (out, into), (out,)


def _norm(shapes: Shapes, name: str, width: int) -> None:
    shapes[f"{name}.weight"] = shapes[f"{name}.bias"] = (width,)
