"""The users of Redis: the same wherever Quire starts one, and a real server takes them as they are started."""

import json
import platform
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
import yaml

from quire.services.up.ports import free_port
from quire.services.up.redis_server import redis_binary
from support.manifests import KUBERNETES, ROOT, Manifest, containers, helm, kustomize
from support.redis_server import ACL, wait_for

PASSWORD = "letters1234"
SECRET = "/run/quire/redis"


def rules() -> str:
    """Of the ledger's user."""
    (line,) = (line for line in ACL.read_text().splitlines() if line.startswith("user quire on "))
    return line[line.index("~") :]


def scripts() -> Iterator[str]:
    """How containers start Redis."""
    for file in ("compose.yaml", "compose.secure.yaml"):
        script = yaml.safe_load((ROOT / file).read_text())["services"]["redis"]["command"][-1]
        for password in ("$$REDISCLI_AUTH", "$$(cat /run/secrets/redis-password)"):
            script = script.replace(password, f"$(cat {SECRET}/password)")
        yield script
    if platform.machine() == "x86_64":  # kubectl and helm are had for it only
        yield container(kustomize(KUBERNETES / "overlays" / "cluster"))["command"][-1]
        yield container(helm())["command"][-1]


def container(manifests: tuple[Manifest, ...]) -> Manifest:
    (found,) = (each for each in containers(manifests) if each["name"] == "redis")
    return found


@pytest.mark.parametrize("script", [*scripts()])
def test_redis_starts_with_the_ledgers_user_alone(script: str, tmp_path: Path) -> None:
    (tmp_path / "password").write_text(PASSWORD)
    port = free_port()
    script = script.replace(SECRET, str(tmp_path))
    script = script.replace("redis-server -", f"{redis_binary()} - --port {port} --bind 127.0.0.1")
    with subprocess.Popen(["sh", "-c", script], stdout=subprocess.DEVNULL) as process:
        try:
            with redis.Redis(port=port, username="quire", password=PASSWORD, retry=None) as client:
                wait_for(client)
                assert client.ping()
            with redis.Redis(port=port) as stranger, pytest.raises(redis.AuthenticationError):
                stranger.ping()
            assert PASSWORD not in Path(f"/proc/{process.pid}/cmdline").read_text()
        finally:
            process.kill()


@pytest.mark.parametrize("script", [*scripts()])
def test_its_rights_are_the_fewest(script: str) -> None:
    (line,) = (line.strip() for line in script.splitlines() if "user quire on" in line)
    assert line == f"user quire on >$(cat {SECRET}/password) {rules()}"
    assert "user default off" in script


def test_no_environment_has_the_password() -> None:
    if platform.machine() == "x86_64":
        for manifests in (kustomize(KUBERNETES / "overlays" / "cluster"), helm()):
            assert "secretKeyRef" not in json.dumps(manifests)
