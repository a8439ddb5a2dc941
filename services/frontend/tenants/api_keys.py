"""The API keys of a frontend, in a file that may be replaced while it runs. Knows no transport."""

import hashlib
import logging
import time
from collections.abc import Callable, Iterable
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from quire.engine.api.errors import Forbidden, StartupError, Unauthenticated
from quire.services.common.file_stamp import file_stamp
from quire.services.frontend.tenants.rules import read_rules
from quire.services.frontend.tenants.tenant import Tenant

logger = logging.getLogger(__name__)


class ApiKeys:
    """Finds the tenant whose key a caller brings. While a new file cannot be used, the one before holds.

    Args:
        path: the file.
        model: that is served.
        num_workers: processes of the frontend, among which limits are divided.
        clock: the time now.

    Raises:
        StartupError: the file cannot be used.
    """

    def __init__(self, path: Path, model: str, num_workers: int = 1, clock: Callable[[], float] = time.time) -> None:
        self._path = path
        self._model = model
        self._num_workers = num_workers
        self._clock = clock
        self._tenants: dict[str, Tenant] = {}
        self._by_hash: dict[str, Tenant] = {}
        self._stamp = file_stamp(path)
        try:
            self._load()
        except (OSError, ValueError) as error:
            raise StartupError(f"--api-keys {path}: {error}") from error

    def caller(self, authorization: Iterable[str | bytes]) -> "Caller":
        """Who brings these values of the field `authorization`.

        Raises:
            Unauthenticated: not exactly one, or not that of a key that is known.
            Forbidden: of a tenant who may not use the model.
        """
        found = [value if isinstance(value, str) else value.decode("latin-1") for value in authorization]
        scheme, _, key = found[0].partition(" ") if len(found) == 1 else ("", "", "")
        if scheme.lower() != "bearer":
            raise Unauthenticated("authorization: must be Bearer and an API key")
        caller = Caller(self, hashlib.sha256(key.strip().encode()).hexdigest())
        caller.tenant()
        return caller

    def tenant(self, key_hash: str) -> Tenant:
        """Whose key it is, by what the file says now.

        A caller cannot make hashes that begin as another's, so the time that the look-up takes tells nothing.

        Raises:
            Unauthenticated: nobody's.
            Forbidden: of a tenant who may not use the model.
        """
        self._refresh()
        tenant = self._by_hash.get(key_hash)
        if tenant is None:
            raise Unauthenticated("authorization: there is no such API key")
        rules = tenant.rules
        if rules.expires is not None and datetime.fromtimestamp(self._clock(), UTC) >= rules.expires:
            raise Unauthenticated("authorization: the API key has expired")
        if rules.models and self._model not in rules.models:
            raise Forbidden(f"model: {self._model!r} may not be used with the key of {tenant.name}")
        return tenant

    def _refresh(self) -> None:
        stamp = file_stamp(self._path)
        if stamp == self._stamp:
            return
        # What changes while it is read is read once more; what cannot be used is complained of once.
        self._stamp = stamp
        try:
            self._load()
        except (OSError, ValueError) as error:
            logger.error("--api-keys %s: cannot be used, what it held before holds: %s", self._path, error)
        else:
            logger.info("--api-keys %s: read again, %d tenants", self._path, len(self._tenants))

    def _load(self) -> None:
        found = read_rules(self._path)
        tenants = {}
        for name, rules in found.items():
            tenants[name] = self._tenants.get(name) or Tenant(name, rules, self._num_workers)
            tenants[name].rules = rules
        self._tenants = tenants
        self._by_hash = {each: tenant for tenant in tenants.values() for each in tenant.rules.sha256}


@dataclass(frozen=True, slots=True)
class Caller:
    """Who makes a call; one that lasts may outlive its key."""

    keys: ApiKeys
    key_hash: str

    def tenant(self) -> Tenant:
        """Raises as `ApiKeys.tenant` does."""
        return self.keys.tenant(self.key_hash)


CALLER: Final[ContextVar[Caller | None]] = ContextVar("caller", default=None)


def current_tenant() -> Tenant | None:
    """Whose call the running task serves; None: keys are not asked for. Raises as `ApiKeys.tenant` does."""
    caller = CALLER.get()
    return None if caller is None else caller.tenant()
