"""Limits of a request: the bounds of each parameter, and those that model and pool set."""

from dataclasses import dataclass

from quire.engine.api.kv_cache_group import WHOLE, KVCacheGroup, blocks_for, tokens_in

MAX_INT32 = 2**31 - 1
# Of epochs and numbers of steps: Redis computes with doubles, which are exact up to here.
MAX_COUNTER = 2**53
MAX_TEMPERATURE = 100
MAX_PENALTY = 2
MAX_REPETITION_PENALTY = 10
MAX_LOGPROBS = 20
MAX_TOP_K = MAX_INT32
# A step looks at the most likely tokens behind each beam, of which `MAX_LOGPROBS` are known.
MAX_BEAM_WIDTH = 16
MAX_LENGTH_PENALTY = 10
MAX_SEED = 2**64 - 1
MAX_STOPS = 16
MAX_STOP_BYTES = 256
MAX_STOP_TOKENS = 64
# Of UTF-8, of all texts of one structured output.
MAX_STRUCTURE_BYTES = 256 * 1024
MAX_CHOICES = 4096
MAX_LOGIT_BIAS = 100
MAX_BIASED_TOKENS = 1024
MAX_ALLOWED_TOKENS = 1024
MAX_BAD_WORDS = 64
# With those of `bad_words`, of which each is tokenized in two places.
MAX_BAD_WORDS_IDS = 256
MAX_BAD_WORD_TOKENS = 64
MAX_NGRAM_SIZE = 64
MAX_PROCESSORS = 8
# Of UTF-8, of the arguments of all logits processors of a request.
MAX_PROCESSOR_BYTES = 64 * 1024
MAX_PRIORITY = 100
MAX_TENANT_WEIGHT = 1000
# Of a tenant's name.
TENANT_PATTERN = "[A-Za-z0-9_-]{1,64}"
MAX_REQUEST_ID_BYTES = 128
# Steps that tokens may wait to be sent together.
MAX_INTERVAL = 1024
MAX_SALT_BYTES = 128
MAX_RETENTIONS = 16
MAX_RETENTION_PRIORITY = 100


@dataclass(frozen=True, slots=True)
class ServingLimits:
    """Limits set by the model and the largest KV pool.

    Attributes:
        vocab_size: token ids are below this.
        max_model_len: tokens of prompt and generation together.
        num_blocks, block_size: the pool, in blocks and in tokens per block.
        logits_processors: that requests may name.
        cache_groups: of the model's layers.
    """

    vocab_size: int
    max_model_len: int
    num_blocks: int
    block_size: int
    logits_processors: frozenset[str] = frozenset()
    cache_groups: tuple[KVCacheGroup, ...] = WHOLE

    def num_needed(self, num_tokens: int) -> int:
        """Blocks for a sequence of so many tokens; the last one is sampled but never fed, so it takes no place."""
        return blocks_for(self.cache_groups, num_tokens - 1, self.block_size)

    @property
    def longest(self) -> int:
        """Tokens of the longest sequence that model and pool allow."""
        in_pool = tokens_in(self.cache_groups, self.num_blocks, self.block_size, self.max_model_len) + 1
        return min(self.max_model_len, in_pool)
