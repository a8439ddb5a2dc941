"""Words that must not be generated, as the runs of tokens that they are made of."""

from dataclasses import replace

from quire.engine.api.errors import InvalidRequest
from quire.engine.api.limits import MAX_BAD_WORD_TOKENS, MAX_BAD_WORDS_IDS
from quire.engine.api.sampling import SamplingParams
from quire.engine.text.tokenizer import Tokenizer


def resolve_bad_words(params: SamplingParams, tokenizer: Tokenizer) -> SamplingParams:
    """Validated parameters with each of `bad_words` among `bad_words_ids`: as it begins a text and behind a space.

    Raises:
        InvalidRequest: the words make too many tokens.
    """
    if not params.bad_words:
        return params
    found = dict.fromkeys(params.bad_words_ids)
    for index, word in enumerate(params.bad_words):
        for text in (word, " " + word.lstrip()):
            ids = tokenizer.mark(text)
            if len(ids) > MAX_BAD_WORD_TOKENS:
                limit = f"must be at most {MAX_BAD_WORD_TOKENS} tokens, {text!r} makes"
                raise InvalidRequest(f"sampling.bad_words[{index}]", len(ids), limit)
            if ids:
                found[ids] = None
    if len(found) > MAX_BAD_WORDS_IDS:
        limit = f"must make at most {MAX_BAD_WORDS_IDS} lists of tokens with bad_words_ids"
        raise InvalidRequest("sampling.bad_words", len(found), limit)
    return replace(params, bad_words=(), bad_words_ids=tuple(found))
