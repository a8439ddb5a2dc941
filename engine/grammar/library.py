"""The `GrammarLibrary`: what Quire uses of xgrammar. Importing this module loads that library, which takes a second."""

import json
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
import xgrammar
from torch import Tensor

from quire.engine.api.structured_output import StructuredOutput
from quire.engine.grammar.batch import MatcherBatch
from quire.engine.grammar.matcher import TextMatcher
from quire.engine.grammar.schema import enforceable
from quire.engine.grammar.vocabulary import Vocabulary

# White space between two parts of a JSON text. Without a bound, a small model may write spaces for ever.
_MAX_WHITE_SPACE = 20
_ANY_OBJECT = json.dumps({"type": "object", "additionalProperties": True})
# JSON has control characters only between its parts; the grammar of a string of bounded length would allow them.
_CONTROL = bytes(each for each in range(0x20) if each != ord("\n"))


class GrammarLibrary:
    """Compiles and follows grammars for one vocabulary, on the calling thread, without the interpreter's lock."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self._any = _compiler(vocabulary.tokens, vocabulary.end_tokens)
        plain = (b"" if set(token).intersection(_CONTROL) else token for token in vocabulary.tokens)
        self._json = _compiler(plain, vocabulary.end_tokens)

    def compile(self, structure: StructuredOutput) -> xgrammar.CompiledGrammar:
        """
        Raises:
            RuntimeError, ValueError: it is malformed, or not supported; the message says where.
        """
        if structure.json_schema is not None:
            schema = enforceable(structure.json_schema)
            return self._json.compile_json_schema(schema, max_whitespace_cnt=_MAX_WHITE_SPACE)
        if structure.json_object:
            return self._json.compile_json_schema(_ANY_OBJECT, max_whitespace_cnt=_MAX_WHITE_SPACE)
        compiler = self._any
        if structure.regex is not None:
            return compiler.compile_regex(structure.regex)
        if structure.grammar is not None:
            return compiler.compile_grammar(structure.grammar)
        if structure.structural_tag is not None:
            return compiler.compile_structural_tag(structure.structural_tag)
        choices = [{"type": "const_string", "value": text} for text in structure.choice]
        return compiler.compile_structural_tag(
            {"type": "structural_tag", "format": {"type": "or", "elements": choices}}
        )

    def start(self, grammar: xgrammar.CompiledGrammar) -> TextMatcher:
        """A new text that the grammar is to match."""
        return TextMatcher(xgrammar.GrammarMatcher(grammar), frozenset(self._vocabulary.end_tokens))

    def batch(self, num_threads: int) -> MatcherBatch:
        """What follows the texts of a step, on so many threads."""
        return MatcherBatch(len(self._vocabulary.tokens), self._vocabulary.end_tokens, num_threads)

    @staticmethod
    def can_match(grammar: xgrammar.CompiledGrammar) -> bool:
        """Whether any token may come first."""
        mask = xgrammar.allocate_token_bitmask(1, grammar.tokenizer_info.vocab_size)
        xgrammar.GrammarMatcher(grammar).fill_next_token_bitmask(mask)
        return bool(mask.any())

    @staticmethod
    def apply(logits: Tensor, mask: Tensor, rows: Tensor) -> None:
        """Make logits -inf where a bit is 0.

        Args:
            logits: float32 [num_rows, vocab_size].
            mask: int32 [at least num_rows, ceil(vocab_size / 32)], on the same device.
            rows: int64 [n], on the same device: the rows to look at.
        """
        vocab_size = logits.shape[1]
        if logits.device.type == "cuda":
            # The kernel takes a tensor, which is there already; the signature does not say so.
            indices: Any = rows
            xgrammar.apply_token_bitmask_inplace(logits, mask, vocab_size=vocab_size, indices=indices)
            return
        # The library's loop for CPUs looks at bit after bit, and takes ten times as long.
        bits = np.unpackbits(~mask[rows].numpy().view(np.uint8), axis=1, count=vocab_size, bitorder="little")
        forbidden = torch.from_numpy(bits).view(torch.bool)
        if len(rows) == len(logits):
            logits.masked_fill_(forbidden, -torch.inf)
            return
        for row, its_forbidden in zip(rows.tolist(), forbidden, strict=True):
            logits[row].masked_fill_(its_forbidden, -torch.inf)


def _compiler(tokens: Iterable[bytes], end_tokens: tuple[int, ...]) -> xgrammar.GrammarCompiler:
    info = xgrammar.TokenizerInfo(list(tokens), xgrammar.VocabType.RAW, stop_token_ids=list(end_tokens))
    return xgrammar.GrammarCompiler(info, max_threads=1, cache_enabled=False)
