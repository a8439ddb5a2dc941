"""The process that renders the templates of requests, as its parent has it."""

import asyncio
import json
import signal
import sys
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Final

from quire.engine.api.errors import InvalidRequest, Overloaded
from quire.engine.chat.conversation import Conversation
from quire.engine.chat.render_worker import MAX_BYTES, MAX_SECONDS, MAX_TEXT_CHARS

# Conversations that wait for the process or have it.
MAX_PENDING: Final = 32
# A character takes at most six bytes in JSON, and two of these stand for one beyond the basic plane.
_MAX_LINE_BYTES: Final = 12 * MAX_TEXT_CHARS + 1024


class RenderProcess:
    """Renders one conversation after another. All methods belong to one event loop.

    The process starts with the first conversation, and anew after one that ended it.

    Args:
        special_tokens: that templates get, by their names.
    """

    def __init__(self, special_tokens: Mapping[str, str]) -> None:
        self._special_tokens = dict(special_tokens)
        self._process: asyncio.subprocess.Process | None = None
        self._turn = asyncio.Lock()
        self._num_pending = 0

    async def render(self, source: str, conversation: Conversation) -> str:
        """The prompt's text.

        Raises:
            InvalidRequest: the template is none, refuses the conversation, or takes too much time or memory.
            Overloaded: too many conversations wait.
        """
        if self._num_pending >= MAX_PENDING:
            message = f"{MAX_PENDING} conversations wait for their chat templates, as many as may"
            raise Overloaded(message, retry_after=MAX_SECONDS)
        asked = {
            "template": source,
            "special_tokens": self._special_tokens,
            "conversation": conversation.as_json(),
        }
        self._num_pending += 1
        try:
            async with self._turn:
                answer = await self._ask(json.dumps(asked).encode() + b"\n")
        finally:
            self._num_pending -= 1
        if "text" in answer:
            text: str = answer["text"]
            return text
        raise InvalidRequest(answer["field"], answer["value"], answer["limit"])

    async def close(self) -> None:
        """Ends the process."""
        if self._process is not None:
            await self._end(self._process)

    async def _ask(self, line: bytes) -> dict[str, Any]:
        if self._process is None:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "quire.engine.chat.render_worker",
                stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, limit=_MAX_LINE_BYTES,
            )  # fmt: skip
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        answer = b""
        try:
            process.stdin.write(line)
            await process.stdin.drain()
            answer = await process.stdout.readline()
        except (BrokenPipeError, ConnectionResetError):
            pass  # it has ended
        finally:
            # One that still renders, for a client that has left, would answer the next.
            if not answer.endswith(b"\n"):
                await self._end(process)
        if answer.endswith(b"\n"):
            found: dict[str, Any] = json.loads(answer)
            return found
        limit = f"must render within {MAX_SECONDS} seconds and {MAX_BYTES} bytes"
        given = "more seconds" if process.returncode == -signal.SIGPROF else f"exit code {process.returncode}"
        return {"field": "chat_template", "value": given, "limit": limit}

    async def _end(self, process: asyncio.subprocess.Process) -> None:
        self._process = None
        assert process.stdout is not None
        # One whose output has ended is about to end: `kill` would take its exit code from those who wait for it.
        if not process.stdout.at_eof():
            with suppress(ProcessLookupError):
                process.kill()
        await process.communicate()
