"""Which prompts are trained on, in which epoch, and which are held out."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

from nbench.errors import UsageError
from nbench.normguard.config import TrainConfig
from nbench.prompts import Prompt, PromptSet, load_prompt_set, spread


@dataclass(frozen=True)
class TrainingPrompts:
    """The two sides of a split.

    Attributes:
        trained: prompts to train on.
        held_out: prompts to evaluate on, with their source and licence.
    """

    trained: tuple[Prompt, ...]
    held_out: PromptSet

    def of_epoch(self, epoch: int, count: int, seed: int) -> tuple[Prompt, ...]:
        """`count` distinct prompts for an epoch: the set is shuffled and walked through, again and again."""
        per_cycle = len(self.trained) // count
        cycle, place = divmod(epoch, per_cycle)
        order = list(self.trained)
        random.Random(f"nbench-prompts-{seed}-{cycle}").shuffle(order)
        return tuple(order[place * count : (place + 1) * count])


def training_prompts(config: TrainConfig, processes: int = 1) -> TrainingPrompts:
    """Split the configured set; the split depends on ids and tags alone.

    Raises:
        PromptSetError: a set is missing or malformed.
        UsageError: too few prompts are left to train on, a prompt is on both sides, or there are more processes than
            prompts in an epoch.
    """
    wanted, per_epoch = config.prompts, config.rollout.prompts
    whole = load_prompt_set(wanted.set)
    if wanted.holdout >= len(whole):
        raise UsageError(
            f"prompts.holdout is {wanted.holdout}, but {whole.name!r} has {len(whole)} prompts: hold out fewer."
        )
    held = spread(whole.prompts, wanted.holdout) if wanted.holdout else ()
    ids = {prompt.id for prompt in held}
    texts = {prompt.text for prompt in held}
    trained = tuple(prompt for prompt in whole.prompts if prompt.id not in ids and prompt.text not in texts)
    if wanted.limit is not None:
        trained = spread(trained, wanted.limit) if trained else trained
    if len(trained) < per_epoch:
        raise UsageError(
            f"rollout.prompts is {per_epoch}, but only {len(trained)} prompts of {whole.name!r} are trained on: lower "
            "it, or hold out fewer."
        )
    if per_epoch < processes:
        raise UsageError(
            f"{processes} processes share {per_epoch} prompts per epoch, whole groups each: raise rollout.prompts."
        )
    if config.evaluate.prompts is None:
        evaluated = replace(whole, prompts=held)
    else:
        evaluated = load_prompt_set(config.evaluate.prompts)
        shared = {prompt.text for prompt in evaluated} & {prompt.text for prompt in trained}
        if shared:
            raise UsageError(
                f"{len(shared)} prompts of evaluate.prompts are trained on too, such as {sorted(shared)[0]!r}: what is "
                "evaluated must be held out."
            )
    if config.evaluate.limit is not None:
        evaluated = evaluated.limited(config.evaluate.limit)
    return TrainingPrompts(trained, evaluated)
