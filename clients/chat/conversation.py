"""What was said in a chat, as the messages of the chat API."""

import json
from pathlib import Path
from typing import TypeAlias

Message: TypeAlias = dict[str, str]


class Conversation:
    """Questions and answers in turns.

    Args:
        system: what the model is told before all; "": nothing.
    """

    def __init__(self, system: str = "") -> None:
        self.system = system
        self._turns: list[Message] = []

    @property
    def messages(self) -> list[Message]:
        """All of it, for a server."""
        return [{"role": "system", "content": self.system}, *self._turns] if self.system else list(self._turns)

    def ask(self, text: str) -> None:
        self._turns.append({"role": "user", "content": text})

    def answer(self, text: str) -> None:
        self._turns.append({"role": "assistant", "content": text})

    def take_back(self) -> str | None:
        """Drops the last question and what was answered to it; returns the question, None if there is none."""
        while self._turns:
            turn = self._turns.pop()
            if turn["role"] == "user":
                return turn["content"]
        return None

    def reset(self) -> None:
        """Forgets every turn, but not `system`."""
        self._turns.clear()

    def save(self, path: Path) -> None:
        """Writes it as JSON if the name ends in .json, else as Markdown; raises `OSError`."""
        if path.suffix == ".json":
            text = json.dumps(self.messages, ensure_ascii=False, indent=2)
        else:
            text = "\n\n".join(f"**{each['role']}**\n\n{each['content']}" for each in self.messages)
        path.write_text(text + "\n")
