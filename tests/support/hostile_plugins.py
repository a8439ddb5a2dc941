"""A logits processor that does what none should; `install` makes it known to services."""

import os
import signal
import threading
from pathlib import Path
from typing import Any

from torch import Tensor

from quire.engine.model.features.user_processor import ProcessedRows

NAME = "HOSTILE"
# What becomes of the executor that computes the request, if there is a file at the request's path: the first two remove
# it, so that this happens once.
DIE_ONCE, HANG_ONCE, DIE = "die once", "hang once", "die"
_METADATA = "Metadata-Version: 2.1\nName: hostile-plugins\nVersion: 1.0\n"
_ENTRY_POINTS = f"[quire.logits_processors]\n{NAME} = hostile_plugins:process\n"


def install(folder: Path) -> dict[str, str]:
    """Makes a package of this file in the folder; the environment in which it is found."""
    (folder / "hostile_plugins.py").write_text(Path(__file__).read_text())
    info = folder / "hostile_plugins-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(_METADATA)
    (info / "entry_points.txt").write_text(_ENTRY_POINTS)
    return {"PYTHONPATH": os.pathsep.join(filter(None, (str(folder), os.environ.get("PYTHONPATH"))))}


def wish(what: str, path: Path) -> dict[str, Any]:
    """`SamplingParams.logits_processors` of a request."""
    return {NAME: [what, str(path)]}


def process(logits: Tensor, rows: ProcessedRows) -> None:
    for what, path in rows.arguments:
        if Path(path).exists():
            if what != DIE:
                Path(path).unlink()
            if what == HANG_ONCE:
                threading.Event().wait()
            os.kill(os.getpid(), signal.SIGKILL)
