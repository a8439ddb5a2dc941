"""Which tensors the weight files of a model folder hold, and which of them count. Reads headers only."""

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from safetensors import SafetensorError, safe_open

from quire.engine.api.errors import StartupError
from quire.engine.json_file import read_json_object, shortened

logger = logging.getLogger(__name__)

INDEX: Final = "model.safetensors.index.json"
SINGLE: Final = "model.safetensors"


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """One tensor in a file.

    Attributes:
        dtype: as safetensors calls it, such as "BF16".
    """

    path: Path
    shape: tuple[int, ...]
    dtype: str


def stored_tensors(folder: Path) -> dict[str, StoredTensor]:
    """Every tensor that counts, by name.

    Where there is an index, it decides: a tensor counts in the file that the index names, and nowhere else.

    Raises:
        StartupError: there are no weights, a file is missing or broken, or the index contradicts the files.
    """
    if not (folder / INDEX).is_file():
        if not (folder / SINGLE).is_file():
            raise StartupError(f"has no weights; must hold {SINGLE} or {INDEX} with the files it names")
        return _header(folder / SINGLE)
    places = _weight_map(folder)
    names = sorted(set(places.values()))
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise StartupError(f"{INDEX} names {len(missing)} files that are not there: {first(missing)}")
    headers = {name: _header(folder / name) for name in names}
    lost = [f"{tensor} in {file}" for tensor, file in places.items() if tensor not in headers[file]]
    if lost:
        raise StartupError(f"{INDEX} names {len(lost)} tensors that their files lack: {first(lost)}")
    ignored = [f"{tensor} in {file}" for file in names for tensor in headers[file] if places.get(tensor) != file]
    if ignored:
        logger.warning(
            "%s: %d tensors lie where %s does not name them, ignored: %s", folder, len(ignored), INDEX, first(ignored)
        )
    return {tensor: headers[file][tensor] for tensor, file in places.items()}


def first(names: Iterable[str], count: int = 3) -> str:
    """The first few in order, as messages list them."""
    ordered = sorted(names)
    return ", ".join(ordered[:count]) + (", …" if len(ordered) > count else "")


def _weight_map(folder: Path) -> Mapping[str, str]:
    """The file of each tensor, by name; every file lies in the folder itself."""
    found = read_json_object(folder / INDEX).get("weight_map")
    if not isinstance(found, dict):
        raise StartupError(f"{INDEX}: weight_map must be an object of file names by tensor, got {shortened(found)}")
    for tensor, file in found.items():
        is_plain = isinstance(file, str) and Path(file).name == file and "\0" not in file
        if not (is_plain and file.endswith(".safetensors")):
            raise StartupError(
                f"{INDEX}: weight_map: {shortened(tensor)} must be in a .safetensors file of this folder, "
                f"named without a path, got {shortened(file)}"
            )
    return found


def _header(path: Path) -> dict[str, StoredTensor]:
    try:
        with safe_open(path, framework="pt") as file:
            # A file is not iterable.
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
            return {
                name: StoredTensor(path, tuple(each.get_shape()), each.get_dtype()) for name, each in slices.items()
            }
    except (OSError, SafetensorError) as error:
        raise StartupError(f"{path.name}: not a safetensors file, or cut off: {error}") from error
