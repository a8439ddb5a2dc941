"""The tokens that end a sequence, as a model folder names them."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from quire.engine.api.errors import StartupError
from quire.engine.json_file import shortened

logger = logging.getLogger(__name__)

END_TOKENS: Final = "eos_token_id"
# What some libraries write for "none".
_NO_TOKEN: Final = -1


@dataclass(frozen=True, slots=True)
class EndTokens:
    """The end tokens that one file names, whether or not the model has them.

    Attributes:
        file: its name, for messages.
        ids: in the file's order, without those that mean "none".
    """

    file: str
    ids: tuple[int, ...]

    def below(self, vocab_size: int) -> tuple[int, ...]:
        """Those that can be sampled, ascending; the log has a warning with the others."""
        never = [token for token in self.ids if not 0 <= token < vocab_size]
        if never:
            logger.warning(
                "%s: %s: %s can never be sampled, ignored; token ids are 0 to %d",
                self.file, END_TOKENS, ", ".join(shortened(token) for token in never[:8]), vocab_size - 1,
            )  # fmt: skip
        return tuple(sorted(set(self.ids).difference(never)))


def read_end_tokens(file: str, content: Mapping[str, Any]) -> EndTokens | None:
    """What a file says; None if it says nothing: the key is missing or null.

    Args:
        file: its name.
        content: the object that it holds.

    Raises:
        StartupError: the value is neither an integer nor a list of integers and nulls.
    """
    value = content.get(END_TOKENS)
    if value is None:
        return None
    ids = value if isinstance(value, list) else [value]
    for each in ids:
        # JSON's true is an int to Python.
        if each is not None and type(each) is not int:
            raise StartupError(
                f"{file}: {END_TOKENS} must be a token id, a list of token ids or null, got {shortened(value)}"
            )
    return EndTokens(file, tuple(each for each in ids if each not in (None, _NO_TOKEN)))
