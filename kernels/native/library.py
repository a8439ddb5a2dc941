"""The compiled kernels as Python functions, and the threads they share."""

import ctypes
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import torch

from quire.kernels.native.pages import Arena

_POINTER: Final = ctypes.c_void_p
_LONG: Final = ctypes.c_long
_INT: Final = ctypes.c_int
_FLOAT: Final = ctypes.c_float

DTYPES: Final = (torch.float32, torch.bfloat16)
"""Types that the kernels compute with."""


class NativeLibrary:
    """One loaded library and one pool of threads. Calls release the GIL; one thread calls at a time.

    Functions take pointers as `Tensor.data_ptr` gives them.

    Attributes:
        num_threads: of the pool, the caller included.
        arena: memory for what is read whole in every step.
    """

    def __init__(self, path: Path, num_threads: int) -> None:
        """
        Raises:
            OSError: it cannot be loaded, or the system does not permit what it was compiled for.
        """
        self._library = ctypes.CDLL(str(path))
        if not self._declare("quire_is_permitted", result=_INT)():
            raise OSError(f"the system does not permit the instructions of {path.name}")
        new = self._declare("quire_pool_new", _INT, result=_POINTER)
        delete = self._declare("quire_pool_delete", _POINTER)
        self.num_threads = num_threads
        self.arena = Arena()
        self.pool: int = new(num_threads)
        weakref.finalize(self, delete, self.pool)
        self.linear_pack = self._declare("quire_linear_pack", _INT, _INT, *[_POINTER] * 2, *[_LONG] * 2)
        self.linear = self._declare(
            "quire_linear", _POINTER, _INT, _INT, _POINTER, _LONG, *[_POINTER] * 2, *[_LONG] * 2, _POINTER
        )
        self.experts = self._declare(
            "quire_experts", _POINTER, _INT, *[_POINTER] * 3, _LONG, *[_POINTER] * 2, *[_LONG] * 2, _POINTER
        )
        self.rms_norm = self._declare("quire_rms_norm", _POINTER, *[_INT] * 2, *[_POINTER] * 5, *[_LONG] * 4, _FLOAT)
        self.take_rows = self._declare("quire_take_rows", _POINTER, *[_POINTER] * 3, *[_LONG] * 2)
        self.attention_new = self._declare("quire_attention_new", *[_INT] * 6, *[_FLOAT] * 2, result=_POINTER)
        self.attention_delete = self._declare("quire_attention_delete", _POINTER)
        self.attention_plan = self._declare("quire_attention_plan", _POINTER, _INT, _INT, *[_POINTER] * 4, result=_LONG)
        self.attention_run = self._declare(
            "quire_attention_run", _POINTER, _POINTER, _INT, *[_POINTER] * 2, _LONG, *[_POINTER] * 2
        )
        self.attention_append = self._declare(
            "quire_attention_append", _POINTER, _POINTER, _INT, *[_POINTER] * 4, *[_LONG] * 3, *[_POINTER] * 3, _LONG
        )
        self.sample = self._declare(
            "quire_sample", *[_POINTER] * 2, *[_LONG] * 3, *[_POINTER] * 4, _LONG, *[_POINTER] * 5
        )
        self.penalize = self._declare("quire_penalize", *[_POINTER] * 2, *[_LONG] * 2, *[_POINTER] * 6)
        self.logprobs = self._declare(
            "quire_logprobs", *[_POINTER] * 2, _LONG, _POINTER, _LONG, _POINTER, _LONG, *[_POINTER] * 2
        )
        self.decoder_blocks = self._declare(
            "quire_decoder_blocks", *[_POINTER] * 7, _LONG, _POINTER, _LONG, *[_POINTER] * 2
        )

    def _declare(self, name: str, *arguments: Any, result: Any = None) -> Callable[..., Any]:
        function = self._library[name]
        function.argtypes, function.restype = arguments, result
        return function
