"""What a person writes by hand to score pictures: the reference usage of each scorer, one picture (or pair) at a time.

Each function loads its network from a folder of weights and returns a function of one picture file and its prompt, or,
for scorers of sets, of the files of one set. They follow the model cards and read-me files of the references, and stand
here to be compared with: same numbers, no batching, nothing encoded once and used again.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image

One = Callable[[Path, str], float]
Set = Callable[[Sequence[Path]], float]


def opened(path: Path) -> Image.Image:
    with Image.open(path) as image:
        return image.convert("RGB")


def cosine(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(torch.nn.functional.cosine_similarity(a, b))


def hugging_face_clip(folder: Path, processor: Path, device: str) -> tuple[Any, Any, Any]:
    from transformers import CLIPImageProcessorPil, CLIPModel, CLIPTokenizer

    model = CLIPModel.from_pretrained(folder, dtype=torch.float32).to(device).eval()
    return model, CLIPImageProcessorPil.from_pretrained(processor), CLIPTokenizer.from_pretrained(processor)


def clip_logit(folder: Path, processor: Path, device: str, *, scale: float | None) -> One:
    """The model card's `logits_per_image`, or the cosine times `scale`."""
    model, pictures, words = hugging_face_clip(folder, processor, device)

    @torch.inference_mode()
    def one(path: Path, prompt: str) -> float:
        pixels = pictures(images=opened(path), return_tensors="pt")["pixel_values"].to(device)
        text = words([prompt], padding=True, truncation=True, max_length=77, return_tensors="pt").to(device)
        output = model(pixel_values=pixels, **text)
        if scale is None:
            return float(output.logits_per_image)
        return scale * cosine(output.image_embeds, output.text_embeds)

    return one


def pickscore(root: Path, device: str) -> One:
    laion = root / "laion" / "CLIP-ViT-H-14-laion2B-s32B-b79K"
    return clip_logit(root / "yuvalkirstain" / "PickScore_v1", laion, device, scale=None)


def clipscore(root: Path, device: str) -> One:
    folder = root / "openai" / "clip-vit-large-patch14"
    return clip_logit(folder, folder, device, scale=1.0)


def laion_aesthetic(root: Path, device: str) -> One:
    folder = root / "openai" / "clip-vit-large-patch14"
    model, pictures, _ = hugging_face_clip(folder, folder, device)
    layers = [torch.nn.Linear(a, b) for a, b in itertools.pairwise((768, 1024, 128, 64, 16, 1))]
    head = torch.nn.Sequential(
        layers[0],
        torch.nn.Dropout(0.2),
        layers[1],
        torch.nn.Dropout(0.2),
        layers[2],
        torch.nn.Dropout(0.1),
        *layers[3:],
    )
    file = "christophschuhmann/improved-aesthetic-predictor/sac+logos+ava1-l14-linearMSE.pth"
    state = torch.load(root / file, weights_only=True)
    head.load_state_dict({name.removeprefix("layers."): value for name, value in state.items()})
    head = head.to(device).eval()

    @torch.inference_mode()
    def one(path: Path, prompt: str) -> float:
        pixels = pictures(images=opened(path), return_tensors="pt")["pixel_values"].to(device)
        features = model.get_image_features(pixel_values=pixels).pooler_output
        return float(head(torch.nn.functional.normalize(features)))

    return one


def hps(file: str) -> Callable[[Path, str], One]:
    def load(root: Path, device: str) -> One:
        import open_clip
        from torchvision.transforms import InterpolationMode
        from torchvision.transforms import functional as F

        model = open_clip.create_model("ViT-H-14", pretrained=None, precision="fp32", device=device)
        model.load_state_dict(torch.load(root / "xswu" / "HPSv2" / file, weights_only=True)["state_dict"])
        model.eval()
        tokenize = open_clip.get_tokenizer("ViT-H-14")

        @torch.inference_mode()
        def one(path: Path, prompt: str) -> float:
            pixels = F.to_tensor(opened(path))
            scale = 224 / max(pixels.shape[1:])
            height, width = (round(side * scale) for side in pixels.shape[1:])
            pixels = F.resize(pixels, [height, width], InterpolationMode.BICUBIC, antialias=True)
            top, left = (224 - height) // 2, (224 - width) // 2
            pixels = F.pad(pixels, [left, top, 224 - width - left, 224 - height - top])
            pixels = F.normalize(pixels, open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD)
            picture = model.encode_image(pixels[None].to(device), normalize=True)
            return float(picture @ model.encode_text(tokenize([prompt]).to(device), normalize=True).T)

        return one

    return load


def pocket_clip(root: Path, device: str) -> One:
    import open_clip

    from nbench.scoring.rewards.pocket_clip import FOLDER

    model, preprocess = open_clip.create_model_from_pretrained(f"local-dir:{FOLDER}", device=device)
    tokenize = open_clip.get_tokenizer(f"local-dir:{FOLDER}")
    model.eval()

    @torch.inference_mode()
    def one(path: Path, prompt: str) -> float:
        picture = model.encode_image(preprocess(opened(path))[None].to(device))
        return cosine(picture, model.encode_text(tokenize([prompt]).to(device)))

    return one


def pocket_aesthetic(root: Path, device: str) -> One:
    import open_clip
    from safetensors.torch import load_file

    from nbench.scoring.rewards.pocket_aesthetic import FOLDER, HEAD, apply_head
    from nbench.scoring.rewards.pocket_clip import FOLDER as CLIP

    model, preprocess = open_clip.create_model_from_pretrained(f"local-dir:{CLIP}", device=device)
    model.eval()
    head = {name: value.float().to(device) for name, value in load_file(FOLDER / HEAD).items()}

    @torch.inference_mode()
    def one(path: Path, prompt: str) -> float:
        pixels = preprocess(opened(path))[None].to(device)
        maps = model.visual.forward_intermediates(pixels, intermediates_only=True)["image_intermediates"]
        moments = [moment for m in maps for moment in (m.mean((2, 3)), m.std((2, 3)))]
        return float(apply_head(head, torch.cat(moments, 1)))

    return one


def commfor(root: Path, device: str) -> One:
    import timm
    from safetensors.torch import load_file
    from torchvision import transforms

    model = timm.create_model("vit_small_patch16_384", num_classes=1)
    state = load_file(root / "OwensLab" / "commfor-model-384" / "model.safetensors")
    model.load_state_dict({name.removeprefix("vit."): value for name, value in state.items()})
    model = model.to(device).eval()
    normal = transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    prepare = transforms.Compose([transforms.Resize(440), transforms.CenterCrop(384), transforms.ToTensor(), normal])

    @torch.inference_mode()
    def one(path: Path, prompt: str) -> float:
        return -float(model(prepare(opened(path))[None].to(device)))

    return one


def mean_cosine_distance(rows: Sequence[torch.Tensor]) -> float:
    return statistics.fmean(1 - cosine(a, b) for a, b in itertools.combinations(rows, 2))


def diversity_dinov2(root: Path, device: str) -> Set:
    from transformers import AutoImageProcessor, AutoModel

    folder = root / "facebook" / "dinov2-base"
    model = AutoModel.from_pretrained(folder).to(device).eval()
    processor = AutoImageProcessor.from_pretrained(folder, backend="pil")

    @torch.inference_mode()
    def one(paths: Sequence[Path]) -> float:
        batches = [processor(opened(path), return_tensors="pt").to(device) for path in paths]
        return mean_cosine_distance([model(**batch).pooler_output for batch in batches])

    return one


def diversity_clip(root: Path, device: str) -> Set:
    folder = root / "openai" / "clip-vit-large-patch14"
    model, pictures, _ = hugging_face_clip(folder, folder, device)

    @torch.inference_mode()
    def one(paths: Sequence[Path]) -> float:
        batches = [pictures(images=opened(path), return_tensors="pt").to(device) for path in paths]
        return mean_cosine_distance([model.get_image_features(**batch).pooler_output for batch in batches])

    return one


def pocket_diversity(root: Path, device: str) -> Set:
    import open_clip

    from nbench.scoring.rewards.pocket_clip import FOLDER

    model, preprocess = open_clip.create_model_from_pretrained(f"local-dir:{FOLDER}", device=device)
    model.eval()

    @torch.inference_mode()
    def one(paths: Sequence[Path]) -> float:
        return mean_cosine_distance([model.encode_image(preprocess(opened(path))[None].to(device)) for path in paths])

    return one


def diversity_lpips(root: Path, device: str) -> Set:
    """As the lpips package: both pictures of every pair go through the network."""
    import numpy as np
    from safetensors.torch import load_file
    from torchvision.models import alexnet

    from nbench.scoring.lpips import BLOCKS, LINEAR, SCALE, SHIFT

    net = alexnet(weights=None)
    net.load_state_dict(torch.load(root / "pytorch" / "vision" / "alexnet-owt-7be5be79.pth", weights_only=True))
    net = net.features.to(device).eval()
    linear = [value.to(device) for _, value in sorted(load_file(LINEAR).items())]
    shift, scale = (torch.tensor(values, device=device).view(1, 3, 1, 1) for values in (SHIFT, SCALE))

    def layers(pixels: torch.Tensor) -> list[torch.Tensor]:
        found = []
        for start, end in BLOCKS:
            pixels = net[start:end](pixels)
            found.append(pixels / (pixels.square().sum(1, keepdim=True).sqrt() + 1e-10))
        return found

    @torch.inference_mode()
    def pair(a: Path, b: Path) -> float:
        pixels = [
            torch.from_numpy(np.asarray(opened(path)) / 127.5 - 1).permute(2, 0, 1)[None].float() for path in (a, b)
        ]
        one, other = (layers((part.to(device) - shift) / scale) for part in pixels)
        parts = [((x - y).square() * w).sum(1).mean() for x, y, w in zip(one, other, linear, strict=True)]
        return float(torch.stack(parts).sum())

    return lambda paths: statistics.fmean(pair(a, b) for a, b in itertools.combinations(paths, 2))


#: of pictures: scorer name -> (weights folder, device) -> function of (file, prompt)
LOOPS: dict[str, Callable[[Path, str], One]] = {
    "pocket-clip": pocket_clip,
    "pocket-aesthetic": pocket_aesthetic,
    "pickscore-v1": pickscore,
    "clipscore-l14": clipscore,
    "aesthetic-laion-v2": laion_aesthetic,
    "hpsv2.0": hps("HPS_v2_compressed.pt"),
    "hpsv2.1": hps("HPS_v2.1_compressed.pt"),
    "commfor-384": commfor,
}
#: of sets: scorer name -> (weights folder, device) -> function of files
SET_LOOPS: dict[str, Callable[[Path, str], Set]] = {
    "pocket-diversity": pocket_diversity,
    "diversity-dinov2": diversity_dinov2,
    "diversity-clip-l14": diversity_clip,
    "diversity-lpips": diversity_lpips,
}
