"""Python's collector of cyclic garbage, in processes that must not stop for it."""

import atexit
import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def no_gc() -> Iterator[None]:
    """Around imports: their objects stay, and to look at them again and again takes an eighth of the time."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def freeze_gc() -> None:
    """At the end of a start: the collector never looks at all of it again, which takes up to 0.2 s each time."""
    gc.collect()
    gc.freeze()
    # Some libraries complain of what is still there when the interpreter has ended.
    atexit.register(gc.unfreeze)
