"""A server with OpenAI's chat API, as far as a chat needs it."""

import json
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from typing import Any
from urllib.parse import urlsplit

from quire.clients.chat.conversation import Message
from quire.clients.sse import events
from quire.engine.api.errors import QuireError, Unavailable


@dataclass(frozen=True, slots=True)
class Piece:
    """What a stream has brought.

    Attributes:
        text: of the answer.
        reasoning: what the model thinks before it answers.
        finish_reason: with the last piece, such as "stop" or "length".
    """

    text: str = ""
    reasoning: str = ""
    finish_reason: str | None = None


class ChatServer:
    """Every method raises `QuireError` if the server refuses, and `Unavailable` if it does not answer.

    Args:
        url: such as "http://127.0.0.1:8000", with or without "/v1".
        model: name to ask for; None: the first that the server lists.
        options: further fields of every request, such as "temperature".
        api_key: sent as the bearer's token; "": none.
    """

    def __init__(self, url: str, model: str | None, options: Mapping[str, Any], api_key: str = "") -> None:
        self.url = url.rstrip("/").removesuffix("/v1")
        self._model = model
        self._options = options
        self._headers = {"Content-Type": "application/json"}
        if api_key:
            self._headers["Authorization"] = f"Bearer {api_key}"

    def model(self) -> str:
        """The name of the model that is asked."""
        if self._model is None:
            with self._call("GET", "/v1/models") as response:
                listed = _parsed(response.read())
            try:
                self._model = str(listed["data"][0]["id"])
            except (LookupError, TypeError) as error:
                raise Unavailable(f"{self.url}/v1/models: lists no model") from error
        return self._model

    def stream(self, messages: Sequence[Message]) -> Generator[Piece, None, None]:
        """The answer as it is written; closing the generator cancels it."""
        body = {"model": self.model(), "messages": messages, "stream": True, **self._options}
        with self._call("POST", "/v1/chat/completions", json.dumps(body).encode()) as response:
            try:
                for _, event in events((0.0, line) for line in response):
                    if event is None:
                        return
                    yield from _pieces(event)
            except (ValueError, TypeError, AttributeError) as error:
                raise Unavailable(f"{self.url}: the stream is broken: {error!r}") from error
        raise Unavailable(f"{self.url}: the stream ended before the answer")

    @contextmanager
    def _call(self, method: str, path: str, body: bytes | None = None) -> Iterator[HTTPResponse]:
        """The response to a request, if it is a good one; the connection is closed behind it."""
        place = urlsplit(self.url)
        connect = HTTPSConnection if place.scheme == "https" else HTTPConnection
        connection = connect(place.hostname or "", place.port)
        try:
            connection.request(method, place.path + path, body, self._headers)
            response = connection.getresponse()
            if response.status != 200:
                raise QuireError(_reason(response))
            yield response
        except (OSError, HTTPException) as error:
            reason = error.strerror if isinstance(error, OSError) else None
            raise Unavailable(f"{self.url}: {reason or error or type(error).__name__}") from error
        finally:
            connection.close()


def _pieces(event: Any) -> Iterator[Piece]:
    if "error" in event:
        raise QuireError(str(event["error"].get("message", event["error"])))
    for choice in event.get("choices", ()):
        delta = choice.get("delta", {})
        reasoning = delta.get("reasoning_content") or ""
        yield Piece(delta.get("content") or "", reasoning, choice.get("finish_reason"))


def _reason(response: HTTPResponse) -> str:
    """What a refusal says, in OpenAI's format or in none."""
    data = response.read()
    try:
        return str(_parsed(data)["error"]["message"])
    except (LookupError, TypeError, Unavailable):
        return f"HTTP {response.status} {response.reason}: {data[:200].decode(errors='replace')}"


def _parsed(data: bytes) -> Any:
    try:
        return json.loads(data)
    except ValueError as error:
        raise Unavailable(f"no JSON: {error}") from error
