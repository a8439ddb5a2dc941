"""Where a model is: from the value of `--model` to a folder. Knows nothing of torch; frontends use it too."""

from pathlib import Path
from types import MappingProxyType
from typing import Final

import huggingface_hub

from quire.engine.api.errors import StartupError
from quire.engine.demo_model import DEMO_MODEL

WEIGHTS: Final = ("*.safetensors",)
_NOT_HERE: Final = "it is not in the local cache, and the hub cannot be reached"
# By the names of the library's errors, which are in modules that take long to import.
_REASONS: Final = MappingProxyType(
    {
        "GatedRepoError": "its owner must grant access; log in with `hf auth login`",
        "RepositoryNotFoundError": "the hub has no such model, or it is private",
        "OfflineModeIsEnabled": _NOT_HERE,
        "LocalEntryNotFoundError": _NOT_HERE,
    }
)
DESCRIPTION: Final = ("*.json", "*.jinja", "*.txt", "tokenizer.model")


def resolve_model(model: str | None, weights: bool = True) -> Path:
    """The folder that holds a model in Hugging Face layout.

    Args:
        model: a folder, or else a hub id that is downloaded unless it is cached; None: the demo model.
        weights: whether a download includes weights; the tokenizer and the configuration always come.

    Raises:
        StartupError: there is no such folder or hub model, or it has no config.json.
    """
    folder = _folder(model, weights)
    if not (folder / "config.json").is_file():
        raise StartupError(f"model: {folder} has no config.json; must be a model folder in Hugging Face layout")
    return folder


def model_name(model: str | None, folder: Path) -> str:
    """What a model is called: a hub id as it was given; a folder has a name of its own."""
    return folder.resolve().name if model is None or Path(model).expanduser().is_dir() else model


def _folder(model: str | None, weights: bool) -> Path:
    if model is None:
        return DEMO_MODEL
    if not model.strip():
        raise StartupError(f"model: must be a folder or a hub id, got {model!r}")
    path = Path(model).expanduser()
    if path.is_dir():
        return path
    if path.exists():
        raise StartupError(f"model: {model!r} is a file; must be a folder or a hub id")
    # A hub id is NAME or OWNER/NAME.
    if model.startswith((".", "/", "~")) or model.endswith("/") or model.count("/") > 1:
        raise StartupError(f"model: there is no folder {model!r}")
    try:
        # The library imports what it needs when it is first called.
        return Path(
            huggingface_hub.snapshot_download(model, allow_patterns=[*DESCRIPTION, *(WEIGHTS if weights else ())])
        )
    # Its errors have no common base: those of the network belong to an HTTP library that changes with the version.
    except Exception as error:
        reason = f"there is no folder {model!r}, and no such model of the hub: {_why(error)}"
        raise StartupError(f"model: {reason}") from error


def _why(error: Exception) -> str:
    kinds = [kind.__name__ for kind in type(error).__mro__]
    return next((_REASONS[kind] for kind in kinds if kind in _REASONS), str(error).strip().split("\n")[0])
