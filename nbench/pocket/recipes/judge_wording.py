"""What pocket-judge is asked, word for word, and what it may answer. It understands little else.

Every question is one user turn, pictures first, and the wanted word is the next token after the assistant's turn has
begun (after `RATING_STEM`, for the rating). Case and punctuation do not matter; two pictures are announced as
"Image 1:" and "Image 2:".
"""

from __future__ import annotations

from collections.abc import Mapping

from nbench.pocket.world import vocabulary

RATING = "Rate the quality of this image."
RATING_STEM = "The quality is"
RATINGS: tuple[str, ...] = ("bad", "poor", "fair", "good", "excellent")  # worth 0, 1, 2, 3, 4

#: defect -> question, answered yes or no
ITEMS: Mapping[str, str] = {
    "blur": "Is this image blurry? Answer yes or no.",
    "noise": "Is this image noisy? Answer yes or no.",
    "jpeg": "Does this image show compression artifacts? Answer yes or no.",
    "oversharpen": "Is this image oversharpened? Answer yes or no.",
    "oversaturate": "Is this image oversaturated? Answer yes or no.",
    "grid": "Does this image show a grid pattern? Answer yes or no.",
}
ALIGNMENT = 'Does this image show "{prompt}"? Answer yes or no.'
PAIR = "Which image has the better quality? Answer 1 or 2."
YES, NO = "yes", "no"
FIRST, SECOND = "1", "2"

ROLES = ("system", "user", "assistant")


def words() -> list[str]:
    """Every word that the tokenizer knows, sorted; each is one token."""
    said = " ".join((RATING, RATING_STEM, *ITEMS.values(), ALIGNMENT.format(prompt=""), PAIR)).lower()
    plain = "".join(letter if letter.isalnum() else " " for letter in said).split()
    return sorted({*vocabulary(), *plain, *RATINGS, *ROLES, YES, NO, FIRST, SECOND})
