"""`quire` says what it can do, however it is asked."""

import os
import re
import subprocess
import sys

import pytest

from quire.services.cli import COMMANDS, main

BENCH = [name for name in COMMANDS if name.startswith("bench ")]


@pytest.mark.parametrize("words", ["", "--help", "-h", "help", "help --help", "help help", "help -h"])
def test_every_command_is_listed(words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words.split()) == 0
    assert [line.split("  ")[1] for line in capsys.readouterr().out.splitlines()[3:-2]] == list(COMMANDS)


@pytest.mark.parametrize("words", ["bench", "bench --help", "bench -h", "help bench"])
def test_a_group_lists_its_commands(words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words.split()) == 0
    usage, _, _, *lines = capsys.readouterr().out.splitlines()
    assert usage == "usage: quire bench COMMAND [--help]"
    assert [line.split("  ")[1] for line in lines] == BENCH


@pytest.mark.parametrize("words", ["bench compare --help", "help bench compare", "bench compare -h"])
def test_help_for_one_command(words: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(words.split())
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith("usage: quire bench compare")


@pytest.mark.parametrize(
    ("words", "name", "commands"),
    [
        ("serve", "serve", list(COMMANDS)),
        ("help serve", "serve", list(COMMANDS)),
        ("bench server", "bench server", BENCH),
        ("help bench server", "bench server", BENCH),
        ("--nope", "--nope", list(COMMANDS)),
    ],
)
def test_no_such_command(words: str, name: str, commands: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words.split()) == 2
    assert capsys.readouterr() == ("", f"quire: error: no command {name!r}; commands: {', '.join(commands)}\n")


@pytest.mark.parametrize("name", COMMANDS)
def test_help_speaks_to_users(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([*name.split(), "--help"])
    shown = capsys.readouterr().out
    # Not within names of flags, such as --include-stop-str-in-output.
    assert not re.findall(
        r"tuple\[|list\[|(?<![\w-])(?:str|int|None|null)(?![\w-])|default factory|default: \(\)", shown
    )


@pytest.mark.parametrize(("target", "code", "said"), [("closed", 141, b""), ("full", 1, b"No space left on device")])
def test_output_that_nobody_takes(target: str, code: int, said: bytes) -> None:
    if target == "closed":
        reading, writing = os.pipe()
        os.close(reading)
    else:
        writing = os.open("/dev/full", os.O_WRONLY)
    command = [sys.executable, "-m", "quire.services.cli", "help"]
    done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, timeout=60, check=False)
    os.close(writing)
    assert done.returncode == code
    assert done.stderr == (b"quire: error: " + said + b"\n" if said else b"")


@pytest.mark.parametrize("words", ["up --nope=1", "generate", "ledger", "bench compare a"])
def test_wrong_usage_is_one_line_and_a_hint(words: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(words.split())
    assert ended.value.code == 2
    error, hint = capsys.readouterr().err.splitlines()
    assert ": error: " in error
    assert hint.endswith("--help lists the settings")
