"""One validated request as the scheduler sees it."""

from dataclasses import dataclass

from quire.engine.api.adapter import Adapter
from quire.engine.api.options import DEFAULT_OPTIONS, RequestOptions
from quire.engine.api.sampling import SamplingParams
from quire.engine.arrays import Int32Array


@dataclass(frozen=True, slots=True, eq=False)
class Request:
    """One validated request as the scheduler sees it: token ids only, every default filled in.

    Attributes:
        request_id: the client's name for it, for logs.
        client: who gets the tokens: an index of the caller's own (a frontend's stream).
        handle: the caller's number for the request, unique per client while it is open.
        prompt: token ids, int32, shape (num_prompt,), at least one.
        generated: token ids already delivered before a fault, int32, shape (num_generated,).
        params: with `seed` and `max_tokens` set; `stop` strings are not looked at here.
        options: priority and cache.
        is_resumed: it was accepted before a fault, so no bound may refuse it now.
        adapter: what changes the model for it; its name is that of `options`. None: nothing does.
        interval: steps that its tokens, but for the first, may wait to be sent together.
    """

    request_id: str
    client: int
    handle: int
    prompt: Int32Array
    generated: Int32Array
    params: SamplingParams
    options: RequestOptions = DEFAULT_OPTIONS
    is_resumed: bool = False
    interval: int = 1
    adapter: Adapter | None = None
