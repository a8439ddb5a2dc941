"""One generation as its client sees it: tokens from the scheduler made into deltas of text."""

from collections.abc import AsyncIterator
from dataclasses import dataclass

from quire.engine.request import FinishReason
from quire.engine.text.output import OutputText
from quire.engine.text.tokenizer import Tokenizer
from quire.services.frontend.open_request import Finish, OpenRequest


@dataclass(frozen=True, slots=True)
class Delta:
    """What is new.

    Attributes:
        token_ids: new tokens; the text may lag behind them.
        finish: set in the last delta only, with `stop` if a stop string ended it.
    """

    text: str
    token_ids: list[int]
    finish: Finish | None = None
    stop: str | None = None


async def deltas(request: OpenRequest, tokenizer: Tokenizer) -> AsyncIterator[Delta]:
    """Deltas until the request ends, by itself or by a stop string; the caller closes it.

    Raises:
        RequestError: it failed.
    """
    text = OutputText(tokenizer, request.params.stop)
    finish = None
    while finish is None:
        token_ids = await request.next()
        num_before, finish = text.num_tokens, request.finish
        if finish is None:
            piece = text.push(token_ids)
        else:
            piece = text.finish(token_ids, by_stop_token=finish.stop_token_id is not None)
        if text.matched is not None:
            finish = Finish(FinishReason.STOP)
        yield Delta(piece, token_ids[: text.num_tokens - num_before], finish, text.matched)
