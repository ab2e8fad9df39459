"""Which prompts a board shows with pictures: spread over the tags, by id, never by score."""

from __future__ import annotations

from collections.abc import Mapping

from nbench.prompts import Prompt, spread


def shown_prompts(texts: Mapping[str, str], tags: Mapping[str, tuple[str, ...]], count: int) -> tuple[str, ...]:
    """Ids of `count` prompts; the same whatever their order and their scores, and a smaller count's among a larger's.

    Args:
        texts: prompt id -> text.
        tags: prompt id -> tags.
        count: how many at most.
    """
    if count < 1 or not texts:
        return ()
    prompts = [Prompt(one, texts[one], tuple(tags.get(one, ()))) for one in sorted(texts)]
    return tuple(prompt.id for prompt in spread(prompts, count))
