"""One error tree. Client faults and ours are apart, and each says whether trying again can help.

QuireError
├── RequestError                the request ends; nobody else notices
│   ├── InvalidRequest          the client's fault; names field, value and limit
│   ├── UnknownModel            the request names a model that is not served here
│   ├── Unauthenticated         the call brings no API key that is known
│   ├── Forbidden               the caller's API key does not allow it
│   ├── Overloaded              a bounded queue is full; retryable
│   │   └── LimitReached        a limit of the caller's API key; retryable
│   └── Unavailable             nothing can compute now, or a fault ended it; retryable
├── StartupError                a service cannot start with what it was given
├── PluginError                 a plug-in raised, or broke an invariant: nothing more is scheduled
└── LedgerError
    ├── StaleEpoch              another scheduler owns the pool: step down
    ├── LedgerConflict          the proposal contradicts the ledger: the mirror is stale, resync
    ├── LedgerLost              the pool is not in the ledger (emptied): re-seed it
    └── LedgerUnreachable       no answer; whether the commit was applied is unknown
        └── LedgerDenied        this client is not let in: a setting is wrong
"""


class QuireError(Exception):
    """Base of all errors that Quire raises on purpose."""


class RequestError(QuireError):
    """Ends one request."""

    retryable = False


class InvalidRequest(RequestError):
    """The request can never be served as it is.

    Args:
        field: name of the field at fault, as in the API; a part of it may be a client's own.
        value: what was given.
        limit: what is allowed, as a phrase ("must be at least 1").
    """

    def __init__(self, field: str, value: object, limit: str) -> None:
        # A status has room for some kilobytes.
        self.field = _cut(field, 200)
        super().__init__(f"{self.field}: {limit}, got {_short(value)}")
        self.value = value
        self.limit = limit


class UnknownModel(RequestError):
    """The request names a model that is not served here.

    Args:
        name: as given.
        served: the model's name here.
        adapters: names of its adapters.
    """

    def __init__(self, name: str, served: str, *adapters: str) -> None:
        further = f", or one of its adapters, {_cut(', '.join(map(repr, sorted(adapters))), 200)}" if adapters else ""
        super().__init__(f"model: must be {served!r}, the model served here{further}, got {_short(name)}")


class Unauthenticated(RequestError):
    """The call brings no API key that is known."""


class Forbidden(RequestError):
    """The caller's API key does not allow what is asked for."""


class Overloaded(RequestError):
    """A bounded queue is full.

    Args:
        retry_after: seconds after which trying again is worthwhile.
    """

    retryable = True

    def __init__(self, message: str, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class LimitReached(Overloaded):
    """The caller's API key does not allow more for now."""


class Unavailable(RequestError):
    """Nothing can compute this now; the same request may succeed later."""

    retryable = True


class StartupError(QuireError):
    """A service cannot start; the message says which setting to change."""


class PluginError(QuireError):
    """A plug-in raised, or broke an invariant of scheduling.

    Args:
        part: the plug-in; the message gives its module and class.
        fault: what it did, such as "raised ValueError: 3".
    """

    def __init__(self, part: object, fault: str) -> None:
        super().__init__(f"plug-in {type(part).__module__}.{type(part).__qualname__} {fault}")


class LedgerError(QuireError):
    """The ledger refused or could not be asked."""


class StaleEpoch(LedgerError):
    """A scheduler with a higher epoch owns the pool.

    Args:
        owner: the higher epoch.
    """

    def __init__(self, message: str, owner: int) -> None:
        super().__init__(message)
        self.owner = owner


class LedgerConflict(LedgerError):
    """A proposal contradicts the ledger; nothing of it was applied."""


class LedgerLost(LedgerError):
    """The ledger does not know the pool, or knows another incarnation of it."""


class LedgerUnreachable(LedgerError):
    """The ledger did not answer; whether the proposal was applied is unknown."""


class LedgerDenied(LedgerUnreachable):
    """The ledger does not let this client in, such as for a wrong password."""


def _short(value: object, width: int = 80) -> str:
    return _cut(repr(value), width)


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"
