"""Which prompts are trained on and which are held out, and in which epoch each has its turn."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml
from train_parts import config

from nbench.errors import PromptSetError, UsageError
from nbench.normguard.config import TrainConfig
from nbench.normguard.prompting import TrainingPrompts, training_prompts
from nbench.prompts import Prompt, load_prompt_set


@pytest.fixture
def write(tmp_path: Path) -> Any:
    def written(name: str, texts: list[str], tags: tuple[str, ...] = ("one", "two")) -> str:
        prompts = [{"id": f"{name}-{i}", "text": text, "tags": [tags[i % len(tags)]]} for i, text in enumerate(texts)]
        path = tmp_path / f"{name}.yaml"
        path.write_text(yaml.safe_dump({"source": "tests", "licence": "CC0-1.0", "prompts": prompts}), encoding="utf-8")
        return str(path)

    return written


def settings(path: str, **changes: Any) -> TrainConfig:
    return config(prompts__set=path, **changes)


def texts(prompts: Any) -> set[str]:
    return {prompt.text for prompt in prompts}


def test_the_sides_of_a_split_share_nothing_and_cover_every_tag(write: Any) -> None:
    path = write("set", [f"text {i}" for i in range(12)])
    split = training_prompts(settings(path, prompts__holdout=4))
    assert len(split.held_out) == 4
    assert len(split.trained) == 8
    assert texts(split.held_out) | texts(split.trained) == {f"text {i}" for i in range(12)}
    assert Counter(prompt.tags[0] for prompt in split.held_out) == {"one": 2, "two": 2}
    assert (split.held_out.source, split.held_out.licence) == ("tests", "CC0-1.0")
    assert training_prompts(settings(path, prompts__holdout=4, seed=9)) == split  # the seed moves nothing across


@pytest.mark.filterwarnings("ignore::nbench.prompts.PromptSetWarning")
def test_a_text_that_is_held_out_under_another_id_is_not_trained_on(write: Any) -> None:
    split = training_prompts(settings(write("set", [f"text {i % 5}" for i in range(10)]), prompts__holdout=2))
    assert not texts(split.held_out) & texts(split.trained)
    assert split.trained


def test_limits_take_from_their_own_side(write: Any) -> None:
    path = write("set", [f"text {i}" for i in range(12)])
    whole = training_prompts(settings(path, prompts__holdout=4))
    less = training_prompts(settings(path, prompts__holdout=4, prompts__limit=3, evaluate__limit=2))
    assert len(less.trained) == 3 and texts(less.trained) < texts(whole.trained)
    assert len(less.held_out) == 2 and texts(less.held_out) < texts(whole.held_out)


def test_another_set_may_be_evaluated_when_it_shares_no_text(write: Any) -> None:
    path, other = write("set", [f"text {i}" for i in range(6)]), write("other", ["new", "newer"])
    split = training_prompts(settings(path, prompts__holdout=0, evaluate__prompts=other))
    assert texts(split.held_out) == {"new", "newer"}
    assert len(split.trained) == 6
    shared = write("shared", ["new", "text 3"])
    with pytest.raises(UsageError, match=r"1 prompts of evaluate.prompts are trained on too, such as 'text 3': "):
        training_prompts(settings(path, prompts__holdout=0, evaluate__prompts=shared))


def test_impossible_splits_are_refused(write: Any) -> None:
    path = write("set", [f"text {i}" for i in range(6)])
    for changes, processes, sentence in [
        ({"prompts__holdout": 6}, 1, "prompts.holdout is 6, but 'set' has 6 prompts: hold out fewer."),
        ({"prompts__holdout": 5}, 1, "rollout.prompts is 2, but only 1 prompts of 'set' are trained on: lower it"),
        ({"prompts__limit": 1}, 1, "rollout.prompts is 2, but only 1 prompts"),
        ({}, 3, "3 processes share 2 prompts per epoch, whole groups each: raise rollout.prompts."),
    ]:
        with pytest.raises(UsageError, match=sentence):
            training_prompts(settings(path, **changes), processes)
    with pytest.raises(PromptSetError, match="pocke"):
        training_prompts(settings("pocke"))


def test_bundled_prompts_are_split_too() -> None:
    split = training_prompts(config(prompts__holdout=8))
    assert len(split.held_out) == 8
    assert len(split.trained) + 8 <= len(load_prompt_set("pocket"))


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_every_prompt_has_its_turn_before_any_has_two(count: int) -> None:
    trained = tuple(Prompt(f"p{i}", f"text {i}") for i in range(7))
    prompts = TrainingPrompts(trained, load_prompt_set("core", 1))
    per_cycle = len(trained) // count
    for cycle in range(3):
        epochs = [prompts.of_epoch(cycle * per_cycle + i, count, seed=4) for i in range(per_cycle)]
        assert all(len(epoch) == count for epoch in epochs)
        seen = Counter(prompt.id for epoch in epochs for prompt in epoch)
        assert max(seen.values()) == 1
        assert len(seen) == per_cycle * count


def test_the_order_follows_seed_and_cycle() -> None:
    trained = tuple(Prompt(f"p{i}", f"text {i}") for i in range(20))
    prompts = TrainingPrompts(trained, load_prompt_set("core", 1))
    assert prompts.of_epoch(3, 4, seed=1) == prompts.of_epoch(3, 4, seed=1)
    assert prompts.of_epoch(3, 4, seed=1) != prompts.of_epoch(3, 4, seed=2)
    assert prompts.of_epoch(0, 20, seed=1) != prompts.of_epoch(1, 20, seed=1)
    assert prompts.of_epoch(0, 20, seed=1) != trained
