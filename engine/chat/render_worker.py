"""A process that renders templates which come with requests: nobody knows what one of them does.

A line of JSON in, {"template", "special_tokens", "conversation"}; a line out, {"text"} or {"field", "value", "limit"}.
What takes too long ends the process, within an operation too, as does the end of its input.
"""

import json
import resource
import signal
import sys
from typing import Any, Final

from quire.engine.api.errors import InvalidRequest
from quire.engine.chat.conversation import Conversation
from quire.engine.chat.template import ChatTemplate

# Of processor time, for one template.
MAX_SECONDS: Final = 2.0
# Of address space, of which Python takes a tenth.
MAX_BYTES: Final = 512 * 1024 * 1024
MAX_TEXT_CHARS: Final = 8 * 1024 * 1024


def main() -> None:
    """Serves until its input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is meant for the parent
    resource.setrlimit(resource.RLIMIT_AS, (MAX_BYTES, MAX_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for line in sys.stdin.buffer:
        signal.setitimer(signal.ITIMER_PROF, MAX_SECONDS)
        answer = json.dumps(_answer(line))
        signal.setitimer(signal.ITIMER_PROF, 0)
        print(answer, flush=True)


def _answer(line: bytes) -> dict[str, Any]:
    try:
        given = json.loads(line)
        template = ChatTemplate(given["template"], given["special_tokens"])
        text = template.render(Conversation.read(**given["conversation"]))
    except InvalidRequest as error:
        return {"field": error.field, "value": repr(error.value)[:200], "limit": error.limit}
    except MemoryError:
        return {"field": "chat_template", "value": "more", "limit": f"must take at most {MAX_BYTES} bytes"}
    if len(text) > MAX_TEXT_CHARS:
        limit = f"must make a text of at most {MAX_TEXT_CHARS} characters"
        return {"field": "chat_template", "value": len(text), "limit": limit}
    return {"text": text}


if __name__ == "__main__":
    main()
