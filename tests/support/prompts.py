"""Prompts of mixed length."""

import random


def random_prompts(count: int, longest: int, vocab_size: int, seed: int = 0) -> list[list[int]]:
    """Token ids; lengths from 1 to `longest`, spread evenly over the magnitudes, both ends among them.

    Lengths at and beside the block size of 16 are among the first.
    """
    draw = random.Random(seed)
    lengths = [1, longest, 15, 16, 17, 32]
    lengths += [round(longest ** draw.random()) for _ in range(count - len(lengths))]
    draw.shuffle(lengths)
    return [[draw.randrange(vocab_size) for _ in range(length)] for length in lengths]
