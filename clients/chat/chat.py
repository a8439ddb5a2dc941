"""The loop of a chat: read a message, show the answer."""

from contextlib import closing

from rich.console import Console

from quire.clients.chat.answer_view import AnswerView
from quire.clients.chat.chat_server import ChatServer
from quire.clients.chat.commands import ChatCommands
from quire.clients.chat.conversation import Conversation
from quire.engine.api.errors import QuireError

# Endings that a reader should know of.
_NOTES = {"length": "the answer has reached the limit of its length"}


class Chat:
    """A conversation with a server's model.

    Attributes:
        commands: what may be typed besides messages.
    """

    def __init__(self, server: ChatServer, conversation: Conversation, console: Console) -> None:
        self._server = server
        self._conversation = conversation
        self._console = console
        self._is_over = False
        self.commands = ChatCommands(conversation, console, self.ask, self._quit)

    @property
    def is_over(self) -> bool:
        return self._is_over

    def take(self, line: str) -> None:
        """Does what was typed: a command, or a message that is answered."""
        if line.startswith("/"):
            self.commands.run(line)
        elif line.strip():
            self.ask(line.strip())

    def ask(self, question: str) -> None:
        """Shows the answer as it is written. Ctrl-C stops it; what has come of it stays in the conversation."""
        self._conversation.ask(question)
        answer, note = "", None
        try:
            with AnswerView(self._console) as view, closing(self._server.stream(self._conversation.messages)) as pieces:
                for piece in pieces:
                    view.reason(piece.reasoning)
                    view.push(piece.text)
                    answer += piece.text
                    note = _NOTES.get(piece.finish_reason or "", note)
        except KeyboardInterrupt:
            note = "stopped"
        except QuireError as error:
            self._console.print(str(error), style="red", markup=False, highlight=False)
        if answer:
            self._conversation.answer(answer)
        else:
            self._conversation.take_back()
        if note is not None:
            self._console.print(f"({note})", style="dim", markup=False, highlight=False)

    def _quit(self) -> None:
        self._is_over = True
