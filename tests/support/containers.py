"""A project of docker compose, and what can be seen of its containers from outside."""

import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

COMPOSE = ("docker-compose",) if shutil.which("docker-compose") else ("docker", "compose")
LABEL = "com.docker.compose.project"


def run(*command: str, env: Mapping[str, str] | None = None, cwd: Path | None = None) -> str:
    """What a command printed; a failure shows all of it."""
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}:\n{done.stdout}\n{done.stderr}"
    return done.stdout


def until(condition: Callable[[], object], seconds: float = 120.0) -> None:
    """Returns when the condition holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds:.0f} s"
        time.sleep(0.2)


@dataclass(frozen=True, slots=True)
class Project:
    """
    Attributes:
        folder: where its files are.
        files: that describe it, the later ones over the earlier.
        variables: of the environment, beside those of this process.
    """

    name: str
    folder: Path
    files: Sequence[str]
    variables: Mapping[str, str]

    def compose(self, *arguments: str) -> str:
        files = [word for file in self.files for word in ("-f", file)]
        return run(*COMPOSE, "-p", self.name, *files, *arguments, env={**os.environ, **self.variables}, cwd=self.folder)

    def script(self, text: str) -> str:
        """Runs shell commands that know this project as the one in their folder."""
        about = {"COMPOSE_PROJECT_NAME": self.name, "COMPOSE_FILE": ":".join(self.files)}
        return run("bash", "-euc", text, env={**os.environ, **self.variables, **about}, cwd=self.folder)

    def containers(self, service: str | None = None, *, stopped: bool = False) -> list[dict[str, Any]]:
        """As `docker inspect` describes them: those that run, or also those that have stopped."""
        filters = [f"label={LABEL}={self.name}"]
        if service is not None:
            filters.append(f"label=com.docker.compose.service={service}")
        ids = run("docker", "ps", "-q", *(["-a"] if stopped else []), *_flags(filters)).split()
        found: list[dict[str, Any]] = json.loads(run("docker", "inspect", *ids)) if ids else []
        return found

    def left(self) -> list[str]:
        """Everything of the project that Docker knows of: containers, networks, volumes."""
        kinds = (("ps", "-aq"), ("network", "ls", "-q"), ("volume", "ls", "-q"))
        return [
            line for kind in kinds for line in run("docker", *kind, *_flags([f"label={LABEL}={self.name}"])).split()
        ]


def _flags(filters: Sequence[str]) -> list[str]:
    return [word for each in filters for word in ("--filter", each)]


def inside(container: Mapping[str, Any], *command: str) -> subprocess.CompletedProcess[str]:
    """Runs a command in a container."""
    return subprocess.run(["docker", "exec", container["Id"], *command], capture_output=True, text=True, check=False)


def processes(container: Mapping[str, Any]) -> list[tuple[int, str]]:
    """Of each process of a container: the id of its user and its command line, as this machine sees them."""
    pids = run("docker", "top", container["Id"], "-eo", "pid").split()[1:]
    return [(Path(f"/proc/{pid}").stat().st_uid, Path(f"/proc/{pid}/cmdline").read_text()) for pid in pids]
