"""Rewards that fail, are constant or are named wrongly: what is left out, and what ends a training."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from train_fakes import ByHand, log_without_times, snapshot, train_config, trained_state

from nbench.errors import NbenchError, ScorerError, UsageError
from nbench.normguard.prompting import training_prompts
from nbench.normguard.trainer import train
from nbench.scoring.scorer import Metric, Score, ScorerCard
from nbench.testing import FakeScorer

pytestmark = pytest.mark.usefixtures("quick_trainings")


def brightness(seen: list[Image.Image], image: Image.Image) -> float:
    seen.append(image.copy())
    return sum(image.convert("L").tobytes()) / 255


@pytest.mark.parametrize("method", ["nft", "dpo"])
@pytest.mark.parametrize("kind", ["fail_prompts", "raise_prompts"])
def test_pictures_without_a_reward_are_left_out_and_counted(
    kind: str, method: str, sd3_folder: Path, tmp_path: Path
) -> None:
    config = train_config(sd3_folder, method, optim__epochs=1)
    bad = training_prompts(config).of_epoch(0, 2, config.seed)[0].text
    scorer = FakeScorer(**{kind: {bad}})  # type: ignore[arg-type]
    train(config, tmp_path, scorers={"fake-score": scorer})
    (line,) = log_without_times(tmp_path)
    assert (line["samples"], line["failed"], sum(line["reasons"].values())) == (4, 2, 2)
    assert "fake-score" in next(iter(line["reasons"]))
    assert line["units"] == {"nft": 2, "dpo": 1}[method]
    assert line["step"] == 1


def test_a_failed_picture_weighs_nothing(sd3_folder: Path, tmp_path: Path) -> None:
    """Whatever else went wrong with it, gradients are those of the other pictures."""
    config = train_config(sd3_folder, "nft", optim__epochs=1, rollout__group_size=3)
    seen: list[Image.Image] = []
    train(config, tmp_path / "a", scorers={"fake-score": ByHand(lambda image, _: brightness(seen, image))})
    assert len(seen) == 6
    worst = seen[1].tobytes()

    def without(image: Image.Image, prompt: str) -> float:
        return math.nan if image.tobytes() == worst else brightness([], image)

    train(config, tmp_path / "b", scorers={"fake-score": ByHand(without)})
    (line,) = log_without_times(tmp_path / "b")
    assert (line["failed"], line["units"], line["step"]) == (1, 5, 1)
    one, other = trained_state(tmp_path / "a")[0], trained_state(tmp_path / "b")[0]
    assert any(not torch.equal(one[name], other[name]) for name in one)
    assert all(bool(tensor.isfinite().all()) for tensor in other.values())


def raises(image: Image.Image, prompt: str) -> float:
    raise RuntimeError("no such luck")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (lambda image, prompt: 0.5, r"the reward is the same for all pictures of each prompt \(the first: 0\.5\)"),
        (lambda image, prompt: float(len(prompt)), "the reward is the same for all pictures of each prompt"),
        (lambda image, prompt: math.nan, r"all 4 pictures of the first epoch failed .* metric '' is nan"),
        (lambda image, prompt: math.inf, r"all 4 pictures of the first epoch failed .* metric '' is inf"),
        (raises, r"all 4 pictures of the first epoch failed .*RuntimeError: no such luck"),
    ],
    ids=["constant", "constant per prompt", "NaN", "infinite", "raises"],
)
@pytest.mark.parametrize("method", ["nft", "grpo"])
def test_a_reward_that_teaches_nothing_ends_the_training(
    method: str, value: Callable[[Image.Image, str], float], message: str, sd3_folder: Path, tmp_path: Path
) -> None:
    config = train_config(sd3_folder, method)
    with pytest.raises(UsageError, match=message) as caught:
        train(config, tmp_path, scorers={"fake-score": ByHand(value)})
    assert caught.value.exit_code == 3
    assert not (tmp_path / "checkpoints").exists() and not (tmp_path / "final").exists()
    assert (tmp_path / "log.jsonl").read_text() == ""


@pytest.mark.parametrize("method", ["nft", "dpo"])
def test_a_reward_that_turns_constant_ends_the_training_after_some_epochs(
    method: str, sd3_folder: Path, tmp_path: Path
) -> None:
    calls = []

    def value(image: Image.Image, prompt: str) -> float:
        calls.append(image)
        return brightness([], image) if len(calls) <= 4 else 1.0

    config = train_config(sd3_folder, method, optim__epochs=9, checkpoint_every=9)
    with pytest.raises(UsageError, match="for 3 epochs there was nothing to learn from"):
        train(config, tmp_path, scorers={"fake-score": ByHand(value)})
    assert len(log_without_times(tmp_path)) == 3  # one that taught, two that did not; the third is not logged
    assert not (tmp_path / "final").exists()


def test_a_scorer_that_cannot_work_at_all_says_so_itself(sd3_folder: Path, tmp_path: Path) -> None:
    def broken(image: Image.Image, prompt: str) -> float:
        raise ScorerError("the weights of fake-score are not here: fetch them.")

    with pytest.raises(ScorerError, match="fetch them"):
        train(train_config(sd3_folder), tmp_path, scorers={"fake-score": ByHand(broken)})


def test_wrong_names_are_told_before_anything_is_loaded(sd3_folder: Path, tmp_path: Path) -> None:
    nowhere = tmp_path / "no-such-model"
    cases: list[tuple[dict[str, Any], str]] = [
        ({"rewards": [{"scorer": "pocket-clap"}]}, "pocket-clip"),
        ({"evaluate__scorers": ["image-stat"]}, "image-stats"),
        ({"rewards": [{"scorer": "image-stats", "metric": "saturatoin"}]}, "saturation"),
        ({"prompts__set": "pockets"}, "pocket"),
        ({"rollout__prompts": 7}, "rollout.prompts is 7, but only 6"),
    ]
    for changes, named in cases:
        with pytest.raises(NbenchError, match=named) as caught:
            train(train_config(nowhere, **changes), tmp_path / "out", scorers={"fake-score": FakeScorer()})
        assert caught.value.exit_code == 3
    assert snapshot(tmp_path / "out") == {}
    with pytest.raises(UsageError, match="no-such-model"):
        train(train_config(nowhere), tmp_path / "out", scorers={"fake-score": FakeScorer()})
    assert snapshot(tmp_path / "out") == {}


def test_a_weighted_sum_of_metrics_is_the_reward(sd3_folder: Path, tmp_path: Path) -> None:
    class Two(FakeScorer):
        @property
        def card(self) -> ScorerCard:
            metrics = (Metric("up", "higher", "x"), Metric("down", "lower", "x"))
            return ScorerCard("two", "reward", "1", metrics, "Two numbers.", False)

        def score(self, images: Sequence[Image.Image], prompts: Sequence[str]) -> list[Score]:
            return [Score({"up": brightness([], one), "down": 2.0}) for one in images]

    rewards = [
        {"scorer": "two", "metric": "up", "weight": 2.0},
        {"scorer": "two", "metric": "down", "weight": -0.5},
        {"scorer": "fake-score"},
    ]
    config = train_config(sd3_folder, rewards=rewards, optim__epochs=1)
    train(config, tmp_path, scorers={"two": Two("two"), "fake-score": FakeScorer()})
    (line,) = log_without_times(tmp_path)
    terms = line["reward"]["terms"]
    assert terms.keys() == {"two:up", "two:down", "fake-score"}
    assert line["reward"]["mean"] == pytest.approx(2 * terms["two:up"] - 0.5 * terms["two:down"] + terms["fake-score"])


def test_the_command_reports_a_reward_without_use(sd3_folder: Path, tmp_path: Path) -> None:
    """Through the command line: the message and exit code 3, no traceback."""
    from nbench.cli import cli

    file = tmp_path / "one.yaml"
    rewards = [{"scorer": "image-stats", "metric": "saturation", "weight": 0.0}]
    file.write_text(train_config(sd3_folder, rewards=rewards).to_yaml())
    found = CliRunner().invoke(cli, ["train", str(file), "--out", str(tmp_path / "out")])
    assert found.exit_code == 3
    assert "the reward is the same for all pictures of each prompt" in found.stderr
    assert "Traceback" not in found.stderr


def test_a_training_that_was_refused_in_its_first_epoch_may_be_begun_again_with_other_settings(
    sd3_folder: Path, tmp_path: Path
) -> None:
    refused = train_config(sd3_folder, optim__epochs=1)
    with pytest.raises(UsageError, match="nothing to learn"):
        train(refused, tmp_path, scorers={"fake-score": ByHand(lambda image, prompt: 0.5)})
    assert (tmp_path / "config.yaml").exists()
    mended = train_config(sd3_folder, optim__epochs=1, prompts__holdout=3, rollout__group_size=3)
    train(mended, tmp_path, scorers={"fake-score": ByHand(lambda image, prompt: brightness([], image))})
    assert (tmp_path / "config.yaml").read_text() == mended.to_yaml()
    assert len(log_without_times(tmp_path)) == 1
