"""What a Python program may give as a prompt, or as several."""

from collections.abc import Iterable, Mapping, Sequence, Set
from numbers import Number
from typing import Final

from quire.engine.api.errors import InvalidRequest

TEXT_KEY: Final = "prompt"
TOKEN_IDS_KEY: Final = "prompt_token_ids"  # noqa: S105

Tokens = str | Sequence[int]
# A text, token ids, {"prompt": text} or {"prompt_token_ids": token ids}.
Prompt = Tokens | Mapping[str, Tokens]
# A text or a mapping is one prompt.
Prompts = str | Mapping[str, Tokens] | Iterable[Prompt]

_ONE: Final = f'a text, a list of token ids, {{"{TEXT_KEY}": text}} or {{"{TOKEN_IDS_KEY}": token ids}}'


def prompt_content(prompt: Prompt, field: str = "prompt") -> Tokens:
    """The text, or the token ids, which are not checked.

    Raises:
        InvalidRequest: the prompt is of another kind.
    """
    if isinstance(prompt, Mapping):
        return _only_value(prompt, field)
    if prompt is None or isinstance(prompt, (Number, bytes, bytearray)):
        raise InvalidRequest(field, prompt, f"must be {_ONE}")
    return prompt


def prompt_contents(prompts: Prompts) -> list[Tokens]:
    """Each prompt's content, in order.

    Raises:
        InvalidRequest: they are of another kind.
    """
    if isinstance(prompts, (str, Mapping)):
        return [prompt_content(prompts, "prompts")]
    if isinstance(prompts, (bytes, bytearray, Set)) or not isinstance(prompts, Iterable):
        raise InvalidRequest("prompts", prompts, f"must be a text, a mapping, or a list whose entries are {_ONE}")
    return [prompt_content(prompt, f"prompts[{index}]") for index, prompt in enumerate(prompts)]


def _only_value(prompt: Mapping[str, Tokens], field: str) -> Tokens:
    if list(prompt) == [TEXT_KEY]:
        text = prompt[TEXT_KEY]
        if not isinstance(text, str):
            raise InvalidRequest(f"{field}[{TEXT_KEY!r}]", text, "must be a text")
        return text
    if list(prompt) == [TOKEN_IDS_KEY]:
        token_ids = prompt[TOKEN_IDS_KEY]
        if isinstance(token_ids, str):
            raise InvalidRequest(f"{field}[{TOKEN_IDS_KEY!r}]", token_ids, "must be a list of token ids")
        return token_ids
    raise InvalidRequest(field, list(prompt), f"must have {TEXT_KEY!r} or {TOKEN_IDS_KEY!r} as its only key")
