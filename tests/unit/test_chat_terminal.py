"""The parts of `quire chat`: what it makes of a server's answers, and of Markdown that is not complete."""

import json
import re
from collections.abc import Callable, Iterator
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console
from rich.markdown import Markdown

from quire.clients.chat.answer_view import AnswerView, unfinished_from
from quire.clients.chat.chat import Chat
from quire.clients.chat.chat_server import ChatServer, Piece
from quire.clients.chat.conversation import Conversation
from quire.engine.api.errors import QuireError, Unavailable
from support.event_server import EventServer, event_server

ANSWER = "# Title\n\nSome *text*.\n\n1. one\n\n   more of one\n\n2. two\n\n```python\na = 1\n\nb = 2\n```\n\nThe end."
QUESTION = [{"role": "user", "content": "?"}]
DONE = "data: [DONE]\n\n"


def event(**delta: str) -> str:
    return f"data: {json.dumps({'choices': [{'index': 0, 'delta': delta, 'finish_reason': None}]})}\n\n"


@pytest.fixture
def server() -> Iterator[EventServer]:
    with event_server() as running:
        yield running


def test_blocks_are_finished_when_another_begins() -> None:
    starts = {unfinished_from(ANSWER[:length]) for length in range(len(ANSWER) + 1)}
    begins = ("Some", "1. one", "```python")
    # Not at "more of one" or "2.", at the empty line in the code, or at a line that is not complete.
    assert starts == {0, *map(ANSWER.index, begins)}


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_an_answer_in_pieces_looks_as_one_that_is_drawn_whole(size: int) -> None:
    def printed(draw: Callable[[Console], None]) -> list[str]:
        console = Console(file=StringIO(), width=60, height=10)
        draw(console)
        lines = map(str.strip, console.file.getvalue().splitlines())  # type: ignore[attr-defined]
        return re.sub("\n\n+", "\n\n", "\n".join(lines)).strip().split("\n")

    def in_pieces(console: Console) -> None:
        with AnswerView(console) as view:
            view.reason("Hm.")
            for start in range(0, len(ANSWER), size):
                view.push(ANSWER[start : start + size])

    assert printed(in_pieces) == ["Hm.", "", *printed(lambda console: console.print(Markdown(ANSWER)))]


def test_a_stream_in_pieces(server: EventServer) -> None:
    last = 'data: {"choices": [{"delta": {}, "finish_reason": "length"}]}\n\n'
    server.events = [event(role="assistant", reasoning_content="Hm."), event(content="Hä"), last, DONE]
    pieces = list(ChatServer(server.url + "/v1", None, {}, "secret").stream(QUESTION))
    assert pieces == [Piece(reasoning="Hm."), Piece("Hä"), Piece(finish_reason="length")]
    assert server.authorizations == ["Bearer secret"]


@pytest.mark.parametrize(
    ("events", "status", "message"),
    [
        ([], 200, "the stream ended before the answer"),
        ([event(content="a")], 200, "the stream ended before the answer"),
        (["data: {\n\n"], 200, "the stream is broken"),
        (["data: 5\n\n"], 200, "the stream is broken"),
        (['data: {"error": {"message": "lost"}}\n\n'], 200, "^lost$"),
        (['{"error": {"message": "no template"}}'], 400, "^no template$"),
        (["<html>"], 502, "^HTTP 502 Bad Gateway: <html>$"),
    ],
)
def test_what_goes_wrong_is_said(server: EventServer, events: list[str], status: int, message: str) -> None:
    server.events, server.status = events, status
    with pytest.raises(QuireError, match=message):
        list(ChatServer(server.url, None, {}).stream(QUESTION))


def test_no_server_at_all(server: EventServer) -> None:
    with pytest.raises(Unavailable, match=r"http://127\.0\.0\.1:1: Connection refused"):
        ChatServer("http://127.0.0.1:1", None, {}).model()


def test_a_failed_answer_leaves_the_conversation_as_it_was(server: EventServer) -> None:
    conversation, console = Conversation("Be brief."), Console(file=StringIO())
    chat = Chat(ChatServer(server.url, None, {}), conversation, console)
    server.events = [event(content="An answer."), DONE]
    chat.take("A question")
    turns = conversation.messages
    assert [turn["content"] for turn in turns] == ["Be brief.", "A question", "An answer."]
    server.events, server.status = ['{"error": {"message": "too long"}}'], 400
    chat.take("Another")
    assert conversation.messages == turns
    assert "too long" in console.file.getvalue()  # type: ignore[attr-defined]


def test_commands(server: EventServer, tmp_path: Path) -> None:
    conversation, console = Conversation(), Console(file=StringIO())
    chat = Chat(ChatServer(server.url, None, {}), conversation, console)
    server.events = [event(content="An answer."), DONE]

    def said(line: str) -> str:
        console.file.truncate(0)
        chat.take(line)
        return console.file.getvalue().replace("\0", "")  # type: ignore[attr-defined]

    assert "nothing was asked yet" in said("/retry")
    chat.take("A question")
    server.events = [event(content="A better one."), DONE]
    assert "A better one." in said("/retry")
    assert "system message: Be brief." in said("/system Be brief.")
    assert [turn["content"] for turn in conversation.messages] == ["Be brief.", "A question", "A better one."]
    said(f"/save {tmp_path}/chat.json")
    assert json.loads((tmp_path / "chat.json").read_text()) == conversation.messages
    said(f"/save {tmp_path}/chat.md")
    assert (tmp_path / "chat.md").read_text().endswith("**user**\n\nA question\n\n**assistant**\n\nA better one.\n")
    assert "Is a directory" in said(f"/save {tmp_path}")
    assert "needs the name of a file" in said("/save")
    assert "no command /nope" in said("/nope")
    assert all(name in said("/help") for name in chat.commands.by_name)
    said("/reset")
    assert [turn["content"] for turn in conversation.messages] == ["Be brief."]
    assert "system message: none" in said("/system -")
    assert conversation.messages == []
    said("/quit")
    assert chat.is_over
