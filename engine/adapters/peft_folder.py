"""A folder with an adapter, as PEFT writes it: which matrices it has. Only safetensors are read."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from safetensors import SafetensorError, safe_open
from torch import Tensor

from quire.engine.adapters.peft_config import CONFIG, PeftConfig, read_peft_config
from quire.engine.api.errors import StartupError
from quire.engine.json_file import shortened
from quire.engine.weights.stored_tensors import first

WEIGHTS: Final = "adapter_model.safetensors"
_PREFIX: Final = "base_model.model."
_DOWN, _UP = ".lora_A.weight", ".lora_B.weight"
_FLOATS: Final = ("F32", "F16", "BF16")


@dataclass(frozen=True, slots=True)
class PeftFolder:
    """Attributes:
    shapes: of down [rank, in] and up [out, rank] of each module, by its name in the checkpoint.
    digest: SHA-256 (hex) over its files.
    """

    path: Path
    config: PeftConfig
    shapes: Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]]
    digest: str

    def matrices(self) -> dict[str, tuple[Tensor, Tensor]]:
        """Down and up of each module, on the CPU; the scale is in up, which is float32.

        Raises:
            StartupError: they cannot be read any more.
        """
        try:
            with safe_open(self.path / WEIGHTS, framework="pt") as file:
                pairs = {
                    module: (file.get_tensor(_PREFIX + module + _DOWN), file.get_tensor(_PREFIX + module + _UP))
                    for module in self.shapes
                }
        except (OSError, SafetensorError) as error:
            raise StartupError(f"{WEIGHTS} cannot be read: {error}") from error
        return {module: (down, up.float() * self.config.scale(module)) for module, (down, up) in pairs.items()}


def read_peft_folder(folder: Path) -> PeftFolder:
    """
    Raises:
        StartupError: it holds no adapter, or one that is more than low-rank matrices of linear layers; the message says
            what is wrong.
    """
    config = read_peft_config(folder)
    shapes = _shapes(folder / WEIGHTS)
    if other := [module for module, (down, _) in shapes.items() if down[0] != config.rank(module)]:
        module = min(other)
        raise StartupError(f"{module} has rank {shapes[module][0][0]}, but {CONFIG} says {config.rank(module)}")
    return PeftFolder(folder, config, shapes, _digest(folder))


def _shapes(path: Path) -> dict[str, tuple[tuple[int, ...], tuple[int, ...]]]:
    try:
        with safe_open(path, framework="pt") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118  a file is not iterable
            found = {name: (tuple(each.get_shape()), each.get_dtype()) for name, each in slices.items()}
    except FileNotFoundError as error:
        raise StartupError(f"{WEIGHTS} is not there") from error
    except (OSError, SafetensorError) as error:
        raise StartupError(f"{WEIGHTS}: not a safetensors file, or cut off: {error}") from error
    names = {name for name in found if name.startswith(_PREFIX) and name.endswith((_DOWN, _UP))}
    if other := found.keys() - names:
        raise StartupError(f"has {len(other)} tensors that are no low-rank matrices of linear layers: {first(other)}")
    modules = {name.removeprefix(_PREFIX).removesuffix(_DOWN).removesuffix(_UP) for name in names}
    if single := [module for module in modules if not {_PREFIX + module + end for end in (_DOWN, _UP)} <= names]:
        raise StartupError(f"has only one of the two matrices of {first(single)}")
    if not modules:
        raise StartupError(f"{WEIGHTS} has no matrices")
    if wrong := [f"{name} has type {dtype}" for name, (_, dtype) in found.items() if dtype not in _FLOATS]:
        raise StartupError(f"{first(wrong, 1)}, must be one of {', '.join(_FLOATS)}")
    shapes = {module: (found[_PREFIX + module + _DOWN][0], found[_PREFIX + module + _UP][0]) for module in modules}
    for module, (down, up) in shapes.items():
        if len(down) != 2 or len(up) != 2 or down[0] != up[1]:
            raise StartupError(f"the matrices of {module} have shapes {shortened(down)} and {shortened(up)}")
    return shapes


def _digest(folder: Path) -> str:
    digest = hashlib.sha256()
    for name in (CONFIG, WEIGHTS):
        try:
            with (folder / name).open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        except OSError as error:
            raise StartupError(f"{name} cannot be read: {error.strerror}") from error
    return digest.hexdigest()
