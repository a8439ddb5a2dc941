"""What a command cannot start with is said in one line, quickly, with the exit code 1 or 2."""

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from quire.services.cli import COMMANDS
from quire.services.common.address import bound_socket
from quire.services.up.ports import LOOPBACK
from support.redis_server import running_redis

# Most of it is the import of torch by the executor on a busy machine.
QUICK_SECONDS = 120
A_URL = "must be a URL that begins with redis://, rediss://, unix://, redis+sentinel:// or redis+cluster://"


def refused(*arguments: str) -> tuple[int, str]:
    """The exit code and the last line on standard error; a traceback is a failure."""
    command = [sys.executable, "-m", "quire.services.cli", *arguments]
    # Without the hub, so that nothing waits for a network.
    env = os.environ | {"HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=QUICK_SECONDS, env=env, check=False)
    assert "Traceback" not in done.stderr, done.stderr
    lines = [line for line in done.stderr.splitlines() if "error:" in line]
    assert len(lines) == 1, done.stderr
    return done.returncode, lines[0]


@pytest.fixture
def taken() -> Iterator[str]:
    """An address where somebody else listens."""
    with socket.socket() as listener:
        listener.bind((LOOPBACK, 0))
        listener.listen()
        yield f"{LOOPBACK}:{listener.getsockname()[1]}"


def test_an_unknown_model_folder() -> None:
    for command in ("executor", "frontend"):
        code, message = refused(command, "--model=/no/such/folder")
        assert code == 1
        assert message == (f"quire {command}: error: model: there is no folder '/no/such/folder'")


def test_a_folder_with_missing_tensors(tiny_model: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_model, tmp_path, dirs_exist_ok=True)
    tensors = load_file(tmp_path / "model.safetensors")
    del tensors["model.layers.1.self_attn.k_proj.weight"]
    save_file(tensors, tmp_path / "model.safetensors")
    code, message = refused("executor", f"--model={tmp_path}")
    assert code == 1
    assert message.startswith("quire executor: error: ")
    assert "model.layers.1.self_attn.k_proj.weight" in message


def test_a_redis_with_another_password() -> None:
    """One that is not there is waited for."""
    with running_redis("--requirepass", "a-word") as url:
        code, message = refused("scheduler", f"--redis={url}", f"--listen={LOOPBACK}:0")
    assert code == 1
    assert message == f"quire scheduler: error: --redis {url}: Redis: Authentication required"


def test_a_port_in_use(taken: str, tiny_model: Path) -> None:
    for command in ("executor", "frontend"):
        code, message = refused(command, f"--listen={taken}", f"--model={tiny_model}")
        assert code == 1
        assert message == f"quire {command}: error: --listen {taken}: cannot listen there: Address already in use"


def test_a_host_of_somebody_else() -> None:
    code, message = refused("frontend", "--listen=192.0.2.1:0")
    assert code == 1
    assert message == (
        "quire frontend: error: --listen 192.0.2.1:0: cannot listen there: Cannot assign requested address"
    )


@pytest.mark.parametrize("host", ["a" * 64, "a..b"])
def test_a_name_that_no_host_can_have(host: str) -> None:
    with pytest.raises(OSError, match="no host can have this name"):
        bound_socket(f"{host}:0")


def test_up_on_a_port_in_use(tiny_model: Path, taken: str) -> None:
    port = taken.rpartition(":")[2]
    arguments = [
        f"--frontend-port={port}",
        "--http-port=0",
        "--scheduler-port=0",
        "--executor-port=0",
        f"--model={tiny_model}",
    ]
    command = [sys.executable, "-m", "quire.services.cli", "up", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=QUICK_SECONDS, check=False)
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last == (f"quire up: error: --frontend-port {port}: cannot listen on {taken}: Address already in use")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["scheduler", "--bogus=1"], "quire scheduler: error: unrecognized arguments: --bogus=1"),
        (
            ["frontend", "--max-requests=0"],
            "quire frontend: error: --max-requests: input should be greater than or equal to 1, got '0'",
        ),
        (
            ["scheduler", "--redis=localhost"],
            f"quire scheduler: error: --redis: {A_URL}, got 'localhost'",
        ),
        (
            ["scheduler", "--redis=http://me:secret@host/0"],
            f"quire scheduler: error: --redis: {A_URL}, got 'http://***@host/0'",
        ),
        (
            ["up", "--redis=redi://me:sec/ret@host/0?password=word"],
            f"quire up: error: --redis: {A_URL}, got 'redi://***@host/0?password=***'",
        ),
        (
            ["up", "--frontend-port=70000"],
            "quire up: error: --frontend-port: input should be less than or equal to 65535, got '70000'",
        ),
        (
            ["frontend", "--listen=127.0.0.1:99999"],
            "quire frontend: error: --listen: must be host:port with a port of 0 to 65535, got '127.0.0.1:99999'",
        ),
        (
            ["frontend", "--http-listen=localhost"],
            "quire frontend: error: --http-listen: must be host:port with a port of 0 to 65535, got 'localhost'",
        ),
        (
            ["scheduler", "--executors=a:1,b"],
            "quire scheduler: error: --executors: must be host:port with a port of 0 to 65535, got 'a:1,b'",
        ),
        (
            ["up", "--executor-port=65535", "--num-executors=2"],
            "quire up: error: --num-executors: must leave executor_port + num_executors - 1 at most 65535, "
            "executor_port is 65535, got '2'",
        ),
        (
            ["serve"],
            f"quire: error: no command 'serve'; commands: {', '.join(COMMANDS)}",
        ),
        (
            ["bench", "server"],
            "quire: error: no command 'bench server'; "
            f"commands: {', '.join(name for name in COMMANDS if name.startswith('bench '))}",
        ),
    ],
)
def test_wrong_usage(arguments: list[str], message: str) -> None:
    assert refused(*arguments) == (2, message)


def test_a_trace_that_cannot_be_written(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    assert refused("executor", f"--trace-dir={file}") == (1, f"quire executor: error: trace_dir {file}: File exists")


def test_an_unknown_capacity_policy() -> None:
    code, message = refused("scheduler", "--capacity-policy=FAIREST")
    assert code == 1
    assert message == (
        "quire scheduler: error: capacity_policy: must be one of GUARANTEED_NO_EVICT, MAX_UTILIZATION, STATIC_BATCH, "
        "got 'FAIREST'"
    )
