"""The size of a JSON text against its parsed values, however it is cut."""

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from quire.services.frontend.http import json_size
from quire.services.frontend.http.json_size import JsonSize, count_json

# Quotes, backslashes and separators in strings, beside those of JSON itself.
STRINGS = st.text('"\\,:[{}] aé\n', max_size=12)
VALUES = st.recursive(
    st.one_of(STRINGS, st.integers(), st.none()),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(STRINGS, inner, max_size=4)),
    max_leaves=20,
)


def expected(value: object) -> JsonSize:
    if isinstance(value, list):
        parts, nested = [expected(one) for one in value], 1
    elif isinstance(value, dict):
        parts, nested = [expected(one) for one in value.values()], 1 + len(value)
    else:
        return JsonSize(0, 0)
    return JsonSize(
        max(0, len(parts) - 1) + sum(part.values for part in parts), nested + sum(part.nested for part in parts)
    )


@pytest.fixture(params=[1, 2, 3, 7, 1000])
def slice_bytes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(json_size, "_SLICE", request.param)
    size: int = request.param
    return size


@given(value=VALUES, spaces=st.booleans())
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_separators_outside_strings_are_counted(slice_bytes: int, value: object, spaces: bool) -> None:
    data = json.dumps(value, ensure_ascii=False, indent=1 if spaces else None).encode()
    assert list(count_json(data))[-1] == expected(value)
