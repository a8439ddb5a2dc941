"""`quire chat`: its settings, and how it starts."""

import sys
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field
from pydantic_settings import SettingsConfigDict
from rich.console import Console

from quire.clients.chat.chat import Chat
from quire.clients.chat.chat_server import ChatServer
from quire.clients.chat.conversation import Conversation
from quire.clients.chat.input_line import InputLine
from quire.clients.settings import ClientSettings
from quire.engine.api.errors import StartupError


def _checked(url: str) -> str:
    place = urlsplit(url)
    if place.scheme not in ("http", "https") or not place.hostname:
        raise ValueError("must be http://host:port or https://host:port")
    return url


class Settings(ClientSettings):
    """Chats with a model in the terminal."""

    model_config = SettingsConfigDict(env_prefix="QUIRE_CHAT_")

    url: Annotated[str, AfterValidator(_checked)] = "http://127.0.0.1:8000"
    """A frontend's HTTP API, or another server with OpenAI's chat API."""

    model: str | None = None
    """Name of the model; default: the first that the server lists."""

    system: str = ""
    """What the model is told before all; default: nothing."""

    max_tokens: int | None = None
    """Tokens of an answer at most; default: the server's."""

    temperature: float | None = None
    """Divides the logits; 0 is greedy; default: the server's."""

    top_p: float | None = None
    """Keep the smallest set of tokens with at least this probability mass; default: the server's."""

    seed: int | None = None
    """The same seed and conversation give the same answer; default: the server draws one."""

    api_key: str = Field("", repr=False)
    """For servers that want one. It belongs into QUIRE_CHAT_API_KEY: other users can read command lines."""

    history: str = "~/.local/state/quire/chat_history"
    """File of what you typed in earlier chats; "" keeps none."""


def run(settings: Settings) -> int:
    """Chats until Ctrl-D or /quit; returns the exit code.

    Raises:
        StartupError: standard input or output is no terminal, or the history cannot be written.
        QuireError: the server does not answer.
    """
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise StartupError("needs a terminal; `quire generate -` reads standard input")
    options = settings.model_dump(include={"max_tokens", "temperature", "top_p", "seed"}, exclude_none=True)
    server = ChatServer(settings.url, settings.model, options, settings.api_key)
    console = Console()
    console.print(f"{server.model()} at {server.url}; /help lists the commands", style="dim", highlight=False)
    chat = Chat(server, Conversation(settings.system), console)
    try:
        line = InputLine(chat.commands.by_name, Path(settings.history).expanduser() if settings.history else None)
    except OSError as error:
        raise StartupError(f"--history {settings.history}: {error.strerror}") from error
    while not chat.is_over and (message := line.read()) is not None:
        chat.take(message)
    return 0
