"""The file of API keys: a table for each tenant."""

import tomllib
from pathlib import Path
from typing import Annotated

from pydantic import (
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    TypeAdapter,
    ValidationError,
)

from quire.engine.api.limits import MAX_PRIORITY, MAX_TENANT_WEIGHT, TENANT_PATTERN

TenantName = Annotated[str, StringConstraints(pattern=f"^{TENANT_PATTERN}$")]
_Hash = Annotated[str, StringConstraints(pattern="^[0-9a-f]{64}$")]
_Limit = Annotated[int, Field(ge=1)]


def _listed(value: object) -> object:
    return [value] if isinstance(value, str) else value


class Rules(BaseModel):
    """One tenant's table."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    sha256: Annotated[tuple[_Hash, ...], BeforeValidator(_listed), Field(min_length=1)]
    """SHA-256 of each key in hexadecimal. A plain hash does: a key has 256 random bits, which nobody can guess one by
    one, so that a slow or salted hash would protect nothing more and would cost every call."""

    max_concurrent_requests: _Limit | None = None
    """Requests open at once; each answer is one."""

    requests_per_minute: _Limit | None = None
    """Requests that may begin in a minute; each answer is one."""

    tokens_per_minute: _Limit | None = None
    """Tokens of prompts, when their requests begin, and of answers, when these end."""

    models: Annotated[tuple[str, ...], BeforeValidator(_listed)] = ()
    """Names of models and adapters that may be used; none: every one."""

    max_priority: Annotated[int, Field(le=MAX_PRIORITY)] = 0
    """The highest priority that a request may have."""

    weight: Annotated[int, Field(ge=1, le=MAX_TENANT_WEIGHT)] = 1
    """The tenant's share of what is computed while requests wait, against that of others; and of full queues."""

    expires: AwareDatetime | None = None
    """From then on the keys are not known any more."""

    shared_cache: bool = False
    """Whether requests share cached prefixes with those of all tenants of whom the same is said."""

    operator: bool = False
    """Whether /metrics and /ui may be seen, which tell of all tenants, and adapters be loaded and unloaded."""


_TABLES = TypeAdapter(dict[TenantName, Rules])


def read_rules(path: Path) -> dict[str, Rules]:
    """Each tenant's rules, by name.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is not as it must be. The message holds nothing that could be a key.
    """
    try:
        tables = _TABLES.validate_python(tomllib.loads(path.read_text()))
    except ValidationError as error:
        problem = error.errors(include_input=False, include_url=False)[0]
        place = ".".join(str(part) for part in problem["loc"] if part != "[key]")
        raise ValueError(f"{place}: {problem['msg'][0].lower()}{problem['msg'][1:]}") from None
    owners: dict[str, str] = {}
    for name, rules in tables.items():
        for each in rules.sha256:
            if owners.setdefault(each, name) != name:
                raise ValueError(f"{name}.sha256: must not be that of {owners[each]}, too")
    return tables
