"""All of Quire's logits processors, in their order."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from quire.engine.grammar.store import GrammarStore
from quire.engine.model.features.allowed_tokens import SlotAllowedTokens
from quire.engine.model.features.bad_words import SlotBadWords
from quire.engine.model.features.grammar import SlotGrammars
from quire.engine.model.features.logit_bias import SlotLogitBias
from quire.engine.model.features.min_tokens import SlotMinTokens
from quire.engine.model.features.no_repeat_ngram import SlotNoRepeatNgram
from quire.engine.model.features.penalties import SlotPenalties, counts_bytes
from quire.engine.model.features.slot_feature import LogitsProcessor
from quire.engine.model.features.thinking import SlotThinking
from quire.engine.model.features.token_history import history_bytes
from quire.engine.model.features.typical import SlotTypical
from quire.engine.model.features.user_processor import SlotUserProcessor, UserProcessor
from quire.kernels.suite import KernelSuite


@dataclass(frozen=True, slots=True)
class SlotShape:
    """What the state of slots is made for.

    Attributes:
        num_slots: sequences that can run at once.
        max_model_len: tokens of one.
        vocab_size: token ids are below this.
        eos_token_ids: what ends a sequence unless it ignores them.
        device: where the newest tokens are.
    """

    num_slots: int
    max_model_len: int
    vocab_size: int
    eos_token_ids: Sequence[int]
    device: torch.device


def logits_processors(
    shape: SlotShape, kernels: KernelSuite, grammars: GrammarStore, users: Mapping[str, UserProcessor]
) -> tuple[LogitsProcessor[Any], ...]:
    """Processors in the order in which they change logits.

    What changes a value comes first, and of that what users bring last. Then come those that forbid tokens, which
    nothing allows again. What keeps a share of the distribution comes last: it sees what the others left.
    """
    num_slots, length, device = shape.num_slots, shape.max_model_len, shape.device
    return (
        SlotPenalties(num_slots, shape.vocab_size, device, kernels.penalize),
        SlotLogitBias(),
        *(SlotUserProcessor(name, each, num_slots, length, device) for name, each in users.items()),
        SlotNoRepeatNgram(num_slots, length, device),
        SlotBadWords(num_slots, length, device),
        SlotMinTokens(num_slots, shape.eos_token_ids),
        SlotAllowedTokens(),
        SlotGrammars(num_slots, shape.vocab_size, device, grammars, shape.eos_token_ids),
        SlotThinking(num_slots, length, device),
        SlotTypical(num_slots),
    )


def processors_bytes(num_slots: int, max_model_len: int, vocab_size: int, num_users: int) -> int:
    """Bytes on the device once every slot wanted everything; `num_users` processors are of users."""
    return counts_bytes(num_slots, vocab_size) + (3 + num_users) * history_bytes(num_slots, max_model_len)
