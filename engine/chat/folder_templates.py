"""The chat templates of a model folder, by their names."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from quire.engine.api.errors import InvalidRequest, StartupError
from quire.engine.chat.template import ChatTemplate
from quire.engine.json_file import read_json_object

DEFAULT: Final = "default"
TOOL_USE: Final = "tool_use"
_SPECIAL_TOKENS: Final = (
    "bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class FolderTemplates:
    """What a folder, and the setting that may stand in for it, have for chats.

    Attributes:
        templates: by name; of several, "tool_use" is for conversations with tools. Empty: there are none.
        special_tokens: by their names, such as "bos_token"; templates of requests get them, too.
        tokenizer_config: what `tokenizer_config.json` has.
    """

    templates: Mapping[str, ChatTemplate]
    special_tokens: Mapping[str, str]
    tokenizer_config: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))

    @classmethod
    def load(cls, folder: Path, file: Path | None = None) -> "FolderTemplates":
        """Reads `chat_template.jinja` and `additional_chat_templates/`, or else what `tokenizer_config.json` has.

        Args:
            file: a template to use in place of them all.

        Raises:
            StartupError: a file cannot be read, or is no template.
        """
        config = read_json_object(folder / "tokenizer_config.json", required=False)
        tokens = MappingProxyType(dict(_special_tokens(config)))
        if file is not None:
            sources = {DEFAULT: (str(file), _read(file))}
        else:
            sources = dict(_files(folder)) or dict(_configured(config, folder))
        return cls({name: _compile(*source, tokens) for name, source in sources.items()}, tokens, config)

    def choose(self, has_tools: bool) -> ChatTemplate | None:
        """The template for a conversation; None if the folder has none."""
        if has_tools and TOOL_USE in self.templates:
            return self.templates[TOOL_USE]
        return self.templates.get(DEFAULT)


def _compile(origin: str, source: str, special_tokens: Mapping[str, str]) -> ChatTemplate:
    try:
        return ChatTemplate(source, special_tokens, field=origin)
    except InvalidRequest as error:
        raise StartupError(f"{error.field}: {error.limit}") from error


def _files(folder: Path) -> Iterator[tuple[str, tuple[str, str]]]:
    """Name, and path and source, of each."""
    path = folder / "chat_template.jinja"
    if path.is_file():
        yield DEFAULT, (str(path), _read(path))
    for path in sorted((folder / "additional_chat_templates").glob("*.jinja")):
        yield path.stem, (str(path), _read(path))


def _configured(config: dict[str, Any], folder: Path) -> Iterator[tuple[str, tuple[str, str]]]:
    origin = f"{folder / 'tokenizer_config.json'}: chat_template"
    given = config.get("chat_template") or []
    entries = [{"name": DEFAULT, "template": given}] if isinstance(given, str) else given
    for entry in entries if isinstance(entries, list) else [entries]:
        match entry:
            case {"name": str(name), "template": str(source)}:
                yield name, (origin, source)
            case _:
                raise StartupError(f'{origin} must be a text or a list of objects with "name" and "template"')


def _special_tokens(config: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for name in _SPECIAL_TOKENS:
        match config.get(name):
            case str(token) | {"content": str(token)}:
                yield name, token


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise StartupError(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise StartupError(f"{path} must be text in UTF-8") from error
