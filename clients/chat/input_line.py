"""Where a chat's messages are typed: several lines, with a history and completion of commands."""

from collections.abc import Iterable
from pathlib import Path

from prompt_toolkit import PromptSession
from prompt_toolkit.completion import WordCompleter
from prompt_toolkit.history import FileHistory, InMemoryHistory
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent


class InputLine:
    """Reads messages from the terminal.

    Args:
        commands: completed where a line begins with a slash.
        history: file of what was typed before, made readable for its owner alone; None: it is not kept.

    Raises:
        OSError: the file cannot be written.
    """

    def __init__(self, commands: Iterable[str], history: Path | None) -> None:
        if history is not None:
            history.parent.mkdir(parents=True, exist_ok=True)
            history.touch(mode=0o600)
        self._session: PromptSession[str] = PromptSession(
            history=InMemoryHistory() if history is None else FileHistory(str(history)),
            completer=WordCompleter(list(commands), sentence=True),
            key_bindings=_bindings(),
            multiline=True,
            prompt_continuation="… ",
        )

    def read(self) -> str | None:
        """The next message; None at the end of input. Ctrl-C drops what is typed."""
        while True:
            try:
                return self._session.prompt("› ")
            except KeyboardInterrupt:
                continue
            except EOFError:
                return None


def _bindings() -> KeyBindings:
    """Enter sends; Alt-Enter, or Enter behind a backslash, begins a new line."""
    bindings = KeyBindings()

    @bindings.add("enter")
    def _(event: KeyPressEvent) -> None:
        buffer = event.current_buffer
        if buffer.document.text_before_cursor.endswith("\\"):
            buffer.delete_before_cursor()
            buffer.insert_text("\n")
        else:
            buffer.validate_and_handle()

    @bindings.add("escape", "enter")
    def _(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    return bindings
