"""How requests end, as values of labels: few, and known before."""

import re
from typing import Final

from google.rpc import code_pb2

from quire.engine.api.completion import FinishReason
from quire.engine.api.errors import RequestError
from quire.engine.open_request import Finish
from quire.protos.status import code_of

FINISHED: Final = tuple(reason.name.lower() for reason in FinishReason)
CANCELLED: Final = "cancelled"


def outcome_of(outcome: Finish | RequestError | None) -> str:
    """A finish reason or the error's kind, such as "stop" and "unavailable"; None: cancelled."""
    if outcome is None:
        return CANCELLED
    return outcome.reason.name.lower() if isinstance(outcome, Finish) else _kind(outcome)


def refusal_of(error: RequestError) -> tuple[str, str]:
    """The gRPC code's name and the error's kind, such as ("INVALID_ARGUMENT", "invalid_request")."""
    return code_pb2.Code.Name(code_pb2.Code.ValueType(code_of(error))), _kind(error)


def _kind(error: RequestError) -> str:
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", type(error).__name__).lower()
