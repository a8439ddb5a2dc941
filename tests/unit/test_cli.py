"""`quire` says what it can do, however it is asked."""

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
