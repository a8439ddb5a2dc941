"""How the hidden states of a prompt become one vector."""

from enum import IntEnum


class Pooling(IntEnum):
    """Which hidden states behind the model's last norm make the vector; values equal those of the protocol."""

    NONE = 0
    """No vector is wanted."""
    MEAN = 1
    """The mean of all tokens' states."""
    LAST = 2
    """The state of the last token."""
    CLS = 3
    """The state of the first token."""
