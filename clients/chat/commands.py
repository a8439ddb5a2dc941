"""What may be typed in a chat besides messages: lines that begin with a slash."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from rich.console import Console

from quire.clients.chat.conversation import Conversation


@dataclass(frozen=True, slots=True)
class ChatCommand:
    """One of them.

    Attributes:
        argument: what stands behind its name, for the list; "": nothing.
        summary: what it does.
        run: is called with the argument.
    """

    argument: str
    summary: str
    run: Callable[[str], None]


class ChatCommands:
    """The commands of a chat.

    Args:
        conversation: that they change.
        ask: asks the model a question.
        quit: ends the chat.
    """

    def __init__(
        self, conversation: Conversation, console: Console, ask: Callable[[str], None], quit: Callable[[], None]
    ) -> None:
        self._conversation = conversation
        self._console = console
        self._ask = ask
        self.by_name: Mapping[str, ChatCommand] = MappingProxyType(
            {
                "/help": ChatCommand("", "this list", self._help),
                "/reset": ChatCommand("", "forget what was said; the system message stays", self._reset),
                "/system": ChatCommand("[TEXT]", "show or set the system message; /system - removes it", self._system),
                "/retry": ChatCommand("", "ask the last question again", self._retry),
                "/save": ChatCommand("FILE", "write the conversation as Markdown, as JSON to a .json file", self._save),
                "/quit": ChatCommand("", "end the chat, as Ctrl-D does", lambda _: quit()),
            }
        )

    def run(self, line: str) -> None:
        """Does what a line says that begins with a slash."""
        name, _, argument = line.strip().partition(" ")
        command = self.by_name.get(name)
        if command is None:
            self._say(f"no command {name}; /help lists them, and a message may begin with a space")
        else:
            command.run(argument.strip())

    def _say(self, text: str) -> None:
        self._console.print(text, style="dim", markup=False, highlight=False)

    def _help(self, _: str) -> None:
        width = max(len(f"{name} {command.argument}") for name, command in self.by_name.items())
        for name, command in self.by_name.items():
            self._say(f"{f'{name} {command.argument}':<{width}}  {command.summary}")
        self._say(
            "Alt-Enter, or a backslash at its end, begins a new line. Ctrl-C stops an answer, Ctrl-D ends the chat."
        )

    def _reset(self, _: str) -> None:
        self._conversation.reset()
        self._say("what was said is forgotten")

    def _system(self, text: str) -> None:
        if text:
            self._conversation.system = "" if text == "-" else text
        self._say(f"system message: {self._conversation.system or 'none'}")

    def _retry(self, _: str) -> None:
        question = self._conversation.take_back()
        if question is None:
            self._say("nothing was asked yet")
        else:
            self._ask(question)

    def _save(self, name: str) -> None:
        if not name:
            self._say("/save needs the name of a file")
            return
        try:
            self._conversation.save(Path(name).expanduser())
        except OSError as error:
            self._say(f"{name}: {error.strerror}")
        else:
            self._say(f"saved to {name}")
