"""The recipes' own machinery, on random sprites and small steps; nothing is fetched or trained to quality here."""

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL
from torch import nn

from nbench.flow.load import CheckpointSpec, load_model
from nbench.pocket.recipes import data
from nbench.pocket.recipes.architectures import TEXT_LENGTH, build_family, clip_tokenizer, t5_tokenizer
from nbench.pocket.recipes.common import Ema, Muon, Optimizers, train, warmup_decay
from nbench.pocket.recipes.vae import LATENT_CHANNELS, build, fold_whitening
from nbench.pocket.world import CONCEPTS, STYLES, Scene, vocabulary


@pytest.fixture(scope="module")
def sprites() -> np.ndarray:
    """Opaque discs, each concept and style of its own colour."""
    rng = np.random.default_rng(0)
    side = np.linspace(-1, 1, data.SPRITE)
    disc = (side[:, None] ** 2 + side[None] ** 2 < 0.7).astype(np.uint8) * 255
    found = np.zeros((len(CONCEPTS), len(STYLES), data.SPRITE, data.SPRITE, 4), np.uint8)
    found[..., :3] = rng.integers(0, 255, (len(CONCEPTS), len(STYLES), 1, 1, 3))
    found[..., 3] = disc
    return found


def test_equal_seeds_compose_equal_pictures_and_others_do_not(sprites: np.ndarray) -> None:
    first, again, other = (data.Composer(sprites, seed).draw() for seed in (3, 3, 4))
    assert first.caption == again.caption and first.scene == again.scene
    assert first.image.tobytes() == again.image.tobytes()
    assert first.image.tobytes() != other.image.tobytes()


@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_scene_shows_its_count_of_copies_on_its_background(sprites: np.ndarray, count: int) -> None:
    from scipy.ndimage import label

    composer = data.Composer(np.where(np.arange(4) < 3, np.uint8(0), sprites), 0)  # black discs
    for _ in range(10):
        array = np.asarray(composer.render(Scene(5, 0, "white", count, "")))
        assert label(array.mean(2) < 60)[1] == count
        assert array[0, 0].min() > 180


def test_fetch_refuses_a_package_of_another_digest(tmp_path: Path) -> None:
    for filename, _ in data.PACKAGES.values():
        (tmp_path / filename).write_bytes(b"something else")
    with pytest.raises(RuntimeError, match="expected"):
        data.fetch(tmp_path)


def test_tokenizers_make_one_token_of_every_pocket_word(tmp_path: Path) -> None:
    clip, t5 = clip_tokenizer(tmp_path), t5_tokenizer()
    for word in vocabulary():
        expected = 2 if word == "3d" else 1  # both split digits from letters
        assert len(clip.tokenize(word)) == expected, word
        assert len(t5.tokenize(f"a {word}")) == 1 + expected, word
    longest = "a small 3d strawberry on an orange background"
    assert len(clip(longest).input_ids) <= TEXT_LENGTH
    assert len(t5(longest).input_ids) <= TEXT_LENGTH


@pytest.mark.parametrize("name", ["sd3", "flux"])
def test_a_saved_base_gives_the_velocity_that_was_trained(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    family = build_family(name, tmp_path / "tokenizers").eval()
    for module in family.modules():  # the heads start at zero, and would make this test say nothing
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.05)
    half = family.half().float()  # weights are stored in fp16
    half.save_pipeline(tmp_path / "base", build())
    model = load_model(CheckpointSpec(name="base", base=str(tmp_path / "base"), device="cpu"))
    assert model.resolution == (64, 64)
    captions = ["a big 3d dog on a red background", "two cats"]
    x, t = torch.randn(2, 16, 8, 8), torch.tensor([0.3, 0.3])
    cond = model.encode(captions, guidance=1.0)
    with torch.no_grad():
        trained = half(x, t, captions, torch.ones(2))
        loaded = model.velocity(x, torch.tensor(0.3), cond, guidance=1.0)
    assert trained.std() > 0.1
    torch.testing.assert_close(loaded, trained, rtol=1e-4, atol=1e-5)
    again = build_family(name, tmp_path / "tokenizers").eval()
    again.load_pipeline(tmp_path / "base")  # what --init does
    wanted = half.state_dict()
    assert all(torch.equal(value, wanted[name]) for name, value in again.state_dict().items())


def test_whitening_makes_latents_white_and_changes_no_reconstruction() -> None:
    torch.manual_seed(0)
    vae: AutoencoderKL = build().eval()
    images = torch.rand(64, 3, 64, 64) * 2 - 1
    images = images * torch.rand(64, 3, 1, 1) + torch.rand(64, 3, 1, 1)
    with torch.no_grad():
        before = vae.decode(vae.encode(images).latent_dist.mean).sample
        fold_whitening(vae, images)
        latents = vae.encode(images).latent_dist.mean
        after = vae.decode(latents).sample
    flat = latents.permute(1, 0, 2, 3).reshape(LATENT_CHANNELS, -1)
    torch.testing.assert_close(torch.cov(flat), torch.eye(LATENT_CHANNELS), atol=0.02, rtol=0)
    torch.testing.assert_close(flat.mean(1), torch.zeros(LATENT_CHANNELS), atol=0.02, rtol=0)
    torch.testing.assert_close(after, before, atol=2e-3, rtol=2e-3)


def test_muon_steps_along_an_orthogonal_matrix() -> None:
    torch.manual_seed(0)
    weight = nn.Parameter(torch.zeros(24, 16))
    weight.grad = torch.randn(24, 16) * 7
    Muon([weight], lr=1.0, momentum=0.0).step()
    values = torch.linalg.svdvals(weight.detach()) / (24 / 16) ** 0.5
    assert values.min() > 0.6 and values.max() < 1.3


def test_schedule_is_constant_until_the_decay_whatever_the_number_of_steps() -> None:
    assert warmup_decay(0, 100, warmup=10) == pytest.approx(0.1)
    assert warmup_decay(40, 100, warmup=10) == warmup_decay(40, 1000, warmup=10) == 1.0
    assert warmup_decay(99, 100, warmup=10, decay=0.3) == pytest.approx(1 / 30)


def _small_training(out: Path, steps: int, stop_after: int | None = None) -> nn.Module:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 8), nn.GELU(), nn.Linear(8, 1))
    ema = Ema(net, 0.9)
    matrices = [p for p in net.parameters() if p.ndim == 2]
    rest = [p for p in net.parameters() if p.ndim == 1]

    def loss_fn(step: int) -> tuple[torch.Tensor, dict[str, float]]:
        if step == stop_after:
            raise KeyboardInterrupt
        x = torch.randn(16, 6, generator=torch.Generator().manual_seed(step))
        return (net(x) - x.sum(1, keepdim=True)).pow(2).mean(), {}

    optimizer = Optimizers(matrices, rest, muon_lr=0.02, lr=1e-2)
    train(
        out=out, steps=steps, modules={"net": net}, optimizer=optimizer, loss_fn=loss_fn, emas=[("net", ema)],
        warmup=3, save_every=5, log_every=5,
    )  # fmt: skip
    return ema.module


def test_a_stopped_and_resumed_training_equals_a_straight_one(tmp_path: Path) -> None:
    straight = _small_training(tmp_path / "straight", 20)
    with pytest.raises(KeyboardInterrupt):
        _small_training(tmp_path / "stopped", 20, stop_after=13)
    resumed = _small_training(tmp_path / "stopped", 20)
    for name, value in straight.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name
