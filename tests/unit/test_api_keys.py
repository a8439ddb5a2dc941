"""Tenants: whose key it is, what it allows, and what was used; without a transport."""

import logging
import tomllib
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from quire.engine.api.errors import Forbidden, LimitReached, StartupError, Unauthenticated
from quire.engine.api.options import CacheParams, RequestOptions
from quire.services.cli import main
from quire.services.frontend.tenants.api_keys import ApiKeys
from quire.services.frontend.tenants.rules import Rules
from quire.services.frontend.tenants.tenant import Tenant
from support.key_file import KeyFile, key_hash, new_key

MODEL = "a-model"


class Clock:
    """Seconds that a test sets."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def file(tmp_path: Path) -> KeyFile:
    file = KeyFile(tmp_path / "keys.toml", "ann", "bob")
    file.write()
    return file


def find(keys: ApiKeys, key: str) -> Tenant:
    return keys.caller([f"Bearer {key}"]).tenant()


def tenant(clock: Clock | None = None, num_workers: int = 1, name: str = "ann", **rules: Any) -> Tenant:
    return Tenant(name, Rules(sha256=("0" * 64,), **rules), num_workers, clock or Clock())


def test_whose_key_it_is(file: KeyFile) -> None:
    keys = ApiKeys(file.path, MODEL)
    assert find(keys, new_key("ann")).name == "ann"
    assert keys.caller([b"bearer " + new_key("bob").encode()]).tenant().name == "bob"


@pytest.mark.parametrize(
    "given",
    [
        [],
        [""],
        ["Bearer"],
        ["Bearer wrong"],
        [new_key("ann")],
        [f"Basic {new_key('ann')}"],
        [f"Bearer {new_key('ann')[:-1]}"],
        [f"Bearer {key_hash(new_key('ann'))}"],
        [f"Bearer {new_key('ann')}", f"Bearer {new_key('ann')}"],
        [b"Bearer \xff\xfe"],
    ],
)
def test_what_is_no_key(file: KeyFile, given: list[str | bytes]) -> None:
    with pytest.raises(Unauthenticated) as raised:
        ApiKeys(file.path, MODEL).caller(given)
    assert new_key("ann")[:-1] not in str(raised.value)


def test_rotation_and_revocation(file: KeyFile) -> None:
    keys = ApiKeys(file.path, MODEL)
    before, caller = find(keys, new_key("ann")), keys.caller([f"Bearer {new_key('ann')}"])
    file.tables["ann"]["sha256"] = [key_hash(new_key("ann")), key_hash("a newer one")]
    file.write()
    assert find(keys, new_key("ann")) is find(keys, "a newer one") is before
    file.tables["ann"]["sha256"] = [key_hash("a newer one")]
    file.write()
    with pytest.raises(Unauthenticated):
        find(keys, new_key("ann"))
    with pytest.raises(Unauthenticated):
        caller.tenant()
    assert find(keys, "a newer one") is before
    del file.tables["ann"]
    file.write()
    with pytest.raises(Unauthenticated):
        find(keys, "a newer one")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[ann", "Expected"),
        ("[ann]", "ann.sha256: field required"),
        ("[ann]\nsha256 = []", "ann.sha256: "),
        (f"[ann]\nsha256 = '{new_key('ann')}'", "ann.sha256.0: string should match pattern"),
        (f"[ann]\nsha256 = '{'0' * 64}'\nspeed = 3", "ann.speed: "),
        (f"[ann]\nsha256 = '{'0' * 64}'\nrequests_per_minute = 0", "ann.requests_per_minute: "),
        (f"[ann]\nsha256 = '{'0' * 64}'\nexpires = 2030-01-01T00:00:00", "ann.expires: "),
        (f"['a n']\nsha256 = '{'0' * 64}'", "a n: "),
        (f"[ann]\nsha256 = '{'0' * 64}'\n[bob]\nsha256 = '{'0' * 64}'", "bob.sha256: must not be that of ann, too"),
    ],
)
def test_a_broken_file(file: KeyFile, caplog: pytest.LogCaptureFixture, text: str, reason: str) -> None:
    keys = ApiKeys(file.path, MODEL)
    file.write(text)
    with caplog.at_level(logging.ERROR):
        for _ in range(3):
            assert find(keys, new_key("ann")).name == "ann"
    assert caplog.text.count("what it held before holds") == 1
    assert reason in caplog.text
    with pytest.raises(StartupError) as raised:
        ApiKeys(file.path, MODEL)
    for message in (caplog.text, str(raised.value)):
        assert new_key("ann") not in message
    file.write()
    assert find(keys, new_key("bob")).name == "bob"


def test_a_file_that_is_gone(file: KeyFile, caplog: pytest.LogCaptureFixture) -> None:
    keys = ApiKeys(file.path, MODEL)
    file.path.unlink()
    assert find(keys, new_key("ann")).name == "ann"
    assert "No such file" in caplog.text


def test_expiry(file: KeyFile) -> None:
    clock = Clock()
    file.tables["ann"]["expires"] = datetime.fromtimestamp(2000, UTC)
    file.write()
    keys = ApiKeys(file.path, MODEL, clock=clock)
    clock.now = 1999.9
    assert find(keys, new_key("ann")).name == "ann"
    clock.now = 2000
    with pytest.raises(Unauthenticated, match="has expired"):
        find(keys, new_key("ann"))


def test_models(file: KeyFile) -> None:
    file.tables["ann"]["models"], file.tables["bob"]["models"] = ["another"], MODEL
    file.write()
    keys = ApiKeys(file.path, MODEL)
    assert find(keys, new_key("bob")).name == "bob"
    with pytest.raises(Forbidden, match=r"model: 'a-model' may not be used with the key of ann"):
        find(keys, new_key("ann"))


def test_requests_at_once() -> None:
    one = tenant(max_concurrent_requests=3)
    one.begin([1, 1])
    with pytest.raises(LimitReached, match="3 requests may be open at once, and these are 2"):
        one.begin([1, 1])
    one.begin([1])
    with pytest.raises(LimitReached, match="3 requests may be open at once"):
        one.check()
    one.end(2)
    one.begin([1])
    with pytest.raises(Forbidden, match="and these are 4"):
        one.begin([1] * 4)


def test_requests_a_minute() -> None:
    clock = Clock()
    one = tenant(clock, requests_per_minute=6)
    for _ in range(6):
        one.begin([100])
        one.end()
    with pytest.raises(LimitReached, match="6 requests a minute") as raised:
        one.begin([1])
    assert raised.value.retry_after == pytest.approx(10)
    clock.now += 9.9
    with pytest.raises(LimitReached):
        one.check()
    clock.now += 0.2
    one.begin([1])


def test_more_answers_than_are_left_are_owed() -> None:
    """They would never be given otherwise."""
    clock = Clock()
    one = tenant(clock, requests_per_minute=6)
    one.begin([1] * 12)
    with pytest.raises(LimitReached) as raised:
        one.check()
    assert raised.value.retry_after == pytest.approx(70)


def test_tokens_a_minute() -> None:
    clock = Clock()
    one = tenant(clock, tokens_per_minute=600)
    one.begin([500])
    one.check()
    one.spend_tokens(400)
    with pytest.raises(LimitReached, match="600 tokens a minute") as raised:
        one.check()
    assert raised.value.retry_after == pytest.approx(30.1)
    clock.now += 30.2
    one.check()


def test_what_was_used_before_there_was_a_limit_is_not_owed() -> None:
    clock = Clock()
    one = tenant(clock)
    one.begin([1_000_000])
    one.rules = tenant(requests_per_minute=1, tokens_per_minute=10).rules
    one.check()


def test_usage_outlives_a_new_file(file: KeyFile) -> None:
    file.tables["ann"]["max_concurrent_requests"] = 1
    file.write()
    keys = ApiKeys(file.path, MODEL)
    find(keys, new_key("ann")).begin([1])
    file.tables["ann"]["max_priority"] = 3
    file.write()
    with pytest.raises(LimitReached):
        find(keys, new_key("ann")).check()


def test_limits_are_divided_among_workers() -> None:
    one = tenant(num_workers=4, max_concurrent_requests=8)
    one.begin([1, 1])
    with pytest.raises(LimitReached, match="ann: 2 of 8, as there are 4 workers, requests may be open at once"):
        one.check()
    least = tenant(num_workers=4, requests_per_minute=1)
    least.begin([1])
    with pytest.raises(LimitReached):
        least.check()


def test_priority() -> None:
    assert tenant().own(RequestOptions(priority=-5)).priority == -5
    with pytest.raises(Forbidden, match="priority: must be at most 0 with the key of ann, got 1"):
        tenant().own(RequestOptions(priority=1))
    assert tenant(max_priority=1).own(RequestOptions(priority=1)).tenant == "ann"


def test_no_salt_of_one_tenant_is_that_of_another() -> None:
    def salt(name: str, given: str = "", shared: bool = False) -> str:
        return tenant(name=name, shared_cache=shared).own(RequestOptions(cache=CacheParams(given))).cache.salt

    assert salt("ann") == salt("ann")
    assert salt("ann", shared=True) == salt("bob", shared=True) == ""
    assert salt("ann", "x", shared=True) == salt("bob", "x", shared=True)
    # Nor can one choose a salt that becomes another's.
    found = [salt("ann"), salt("bob"), salt("ann", "x"), salt("bob", "x"), salt("ann", "x", shared=True)]
    found += [salt("bob", salt("ann")), salt("bob", salt("ann"), shared=True)]
    assert len(set(found)) == len(found)


def test_a_new_key(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["keys", "new", "carl"]) == 0
    printed = capsys.readouterr()
    key = next(word for word in printed.err.split() if word.startswith("quire-"))
    assert key not in printed.out
    assert tomllib.loads(printed.out) == {"carl": {"sha256": [key_hash(key)]}}
    path = tmp_path / "keys.toml"
    path.write_text(printed.out)
    assert find(ApiKeys(path, MODEL), key).name == "carl"
    assert main(["keys", "new", "carl"]) == 0
    assert key not in capsys.readouterr().err


def test_a_name_that_cannot_be(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["keys", "new", "carl]"])
    assert "NAME: " in capsys.readouterr().err
