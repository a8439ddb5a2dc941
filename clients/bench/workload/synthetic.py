"""Workloads of random token ids, with shared prefixes and several turns."""

from dataclasses import dataclass

import numpy as np

from quire.clients.bench.workload.lengths import Lengths
from quire.clients.bench.workload.session import Session, Turn

# The first ids of most vocabularies are special tokens.
FIRST_ID = 10


@dataclass(frozen=True, slots=True)
class Synthetic:
    """Shape of random sessions.

    Attributes:
        input_tokens, output_tokens: lengths of each turn.
        vocab_size: token ids are below this.
        prefix_tokens: length of a prefix in front of first turns.
        num_prefixes: prefixes to choose from, each as likely.
        num_turns: of each session.
    """

    input_tokens: Lengths
    output_tokens: Lengths
    vocab_size: int
    prefix_tokens: int = 0
    num_prefixes: int = 1
    num_turns: int = 1


def synthetic_sessions(shape: Synthetic, count: int, rng: np.random.Generator) -> list[Session]:
    """`count` sessions, the same for the same generator."""
    prefixes = [random_ids(rng, shape.prefix_tokens, shape.vocab_size) for _ in range(shape.num_prefixes)]
    sessions = []
    for _ in range(count):
        inputs = shape.input_tokens.sample(rng, shape.num_turns).tolist()
        outputs = shape.output_tokens.sample(rng, shape.num_turns).tolist()
        prompts = [random_ids(rng, length, shape.vocab_size) for length in inputs]
        prompts[0] = prefixes[int(rng.integers(len(prefixes)))] + prompts[0]
        sessions.append(Session(tuple(map(Turn, prompts, outputs))))
    return sessions


def random_ids(rng: np.random.Generator, count: int, vocab_size: int) -> tuple[int, ...]:
    """Uniform token ids that are no special tokens in most vocabularies."""
    return tuple(rng.integers(min(FIRST_ID, vocab_size - 1), vocab_size, count).tolist())
