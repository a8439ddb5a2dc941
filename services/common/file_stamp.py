"""Whether a file has changed."""

import os
from pathlib import Path


def file_stamp(path: Path) -> tuple[int, int, int]:
    """Changes with the file, also when a link is turned to another; zeros: there is none."""
    try:
        found = os.stat(path)  # in half the time of Path.stat
    except OSError:
        return 0, 0, 0
    return found.st_mtime_ns, found.st_size, found.st_ino
