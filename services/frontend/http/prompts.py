"""The prompts of a body: a text, token ids, or a list of either."""

from typing import Final

from quire.engine.api.errors import InvalidRequest

# More are better sent as requests of their own.
MAX_PROMPTS: Final = 128


def named_prompts(field: str, given: object) -> list[tuple[str, str | list[int]]]:
    """Each prompt with its name for refusals.

    Raises:
        InvalidRequest: it is neither a text, nor token ids, nor a list of either.
    """
    if isinstance(given, str) or _is_ids(given):
        return [(field, given)]  # type: ignore[list-item]
    if isinstance(given, list) and all(isinstance(one, str) or _is_ids(one) for one in given):
        if len(given) > MAX_PROMPTS:
            raise InvalidRequest(field, len(given), f"must be at most {MAX_PROMPTS} prompts")
        return [(f"{field}[{index}]", one) for index, one in enumerate(given)]
    raise InvalidRequest(field, given, "must be a text, a list of token ids, or a list of either")


def _is_ids(prompt: object) -> bool:
    """Whether to take it as token ids. One look suffices: the rest is checked with the vocabulary at hand."""
    return isinstance(prompt, list) and (not prompt or (isinstance(prompt[0], int) and prompt[0] is not True))
