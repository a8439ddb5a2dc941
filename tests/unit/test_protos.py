"""The public protocol only grows; the internal one may change."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BUF = Path(sys.executable).parent / "buf"
PUBLIC = "protos/quire/v1/inference.proto"
INTERNAL = "protos/quire/internal/v1/scheduler.proto"


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of the protos and of what `buf` reads, to be changed."""
    shutil.copytree(ROOT / "protos", tmp_path / "protos")
    shutil.copy(ROOT / "buf.yaml", tmp_path)
    return tmp_path


def breaking(checkout: Path) -> list[str]:
    """What breaks clients of the last release, as `make lint` finds it."""
    command = (BUF, "breaking", "--against", "protos/released.txtpb")
    done = subprocess.run(command, cwd=checkout, capture_output=True, text=True, check=False)
    assert done.returncode in (0, 100), done.stderr
    return done.stdout.splitlines()


def edit(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new, 1))


def test_nothing_breaks_clients_of_the_last_release() -> None:
    assert breaking(ROOT) == []


def test_a_public_field_may_come_but_not_go(checkout: Path) -> None:
    edit(checkout / PUBLIC, "string request_id = 1;", "string request_id = 1;\n  string another = 999;")
    assert breaking(checkout) == []
    edit(checkout / PUBLIC, "string request_id = 1;", "")
    (found,) = breaking(checkout)
    assert 'Previously present field "1" with name "request_id" on message "GenerateRequest" was deleted' in found


def test_internal_messages_may_change(checkout: Path) -> None:
    edit(checkout / INTERNAL, "uint32 handle = 1;", "")
    assert breaking(checkout) == []
