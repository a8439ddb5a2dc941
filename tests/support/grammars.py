"""Grammars of the demo model, and texts drawn from them without a model."""

import random

import numpy as np
import xgrammar

from quire.engine.api.structured_output import StructuredOutput
from quire.engine.demo_model import DEMO_MODEL
from quire.engine.grammar.library import GrammarLibrary
from quire.engine.grammar.matcher import TextMatcher
from quire.engine.grammar.store import GrammarStore
from quire.engine.grammar.vocabulary import Vocabulary
from quire.engine.text.tokenizer import Tokenizer

VOCAB_SIZE, EOS = 2048, 1


def demo_vocabulary() -> Vocabulary:
    return Vocabulary.of(Tokenizer.load(DEMO_MODEL), VOCAB_SIZE, (EOS,))


def start(store: GrammarStore, structure: StructuredOutput) -> TextMatcher:
    return store.library.start(store.get(structure))


def allowed(library: GrammarLibrary, matcher: TextMatcher) -> list[int]:
    """Ids of the tokens that may come next."""
    mask = xgrammar.allocate_token_bitmask(1, VOCAB_SIZE)
    library.batch(1).fill([matcher], mask, [0])
    return np.flatnonzero(np.unpackbits(mask.numpy().view(np.uint8), bitorder="little")).tolist()


def draw(library: GrammarLibrary, structure: StructuredOutput, seed: int, longest: int = 300) -> bytes | None:
    """A text that the grammar allows; None if it was not over after `longest` tokens."""
    numbers, vocabulary = random.Random(seed), demo_vocabulary()
    matcher = library.start(library.compile(structure))
    text = b""
    for _ in range(longest):
        tokens = allowed(library, matcher)
        closing = [token for token in tokens if vocabulary.tokens[token][:1] in (b'"', b"]", b"}", b",")]
        # Texts should come to an end: a token that closes something is drawn more often.
        token = EOS if EOS in tokens and numbers.random() < 0.5 else numbers.choice(closing or tokens)
        if numbers.random() < 0.6:
            token = numbers.choice(tokens)
        if token == EOS:
            return text
        matcher.accept([token])
        assert matcher.failure is None
        text += vocabulary.tokens[token]
    return None
