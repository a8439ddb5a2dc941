"""A limit of the tokens in which a model thinks before it answers."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ThinkingBudget:
    """After so many tokens of thinking its end is forced.

    Attributes:
        max_tokens: of thinking, without its marks; 0 ends it at once.
        begin_ids: tokens that begin it in what is generated; none: the prompt has begun it.
        end_ids: tokens that end it, at least one; they are forced one after the other.
    """

    max_tokens: int
    begin_ids: tuple[int, ...]
    end_ids: tuple[int, ...]
