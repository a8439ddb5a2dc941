"""Where a model is: from the value of `--model` to a folder. Knows nothing of torch; frontends use it too."""

from pathlib import Path
from typing import Final

from huggingface_hub import snapshot_download

from quire.engine.api.errors import StartupError
from quire.engine.demo_model import DEMO_MODEL

WEIGHTS: Final = ("*.safetensors",)
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


def _folder(model: str | None, weights: bool) -> Path:
    if model is None:
        return DEMO_MODEL
    path = Path(model).expanduser()
    if path.is_dir():
        return path
    if path.exists():
        raise StartupError(f"model: {model!r} is a file; must be a folder or a hub id")
    try:
        return Path(snapshot_download(model, allow_patterns=[*DESCRIPTION, *(WEIGHTS if weights else ())]))
    # Its errors have no common base: those of the network belong to an HTTP library that changes with the version.
    except Exception as error:
        reason = str(error).strip().split("\n")[0]
        raise StartupError(f"model: {model!r} is neither a folder nor a hub model that can be had: {reason}") from error
