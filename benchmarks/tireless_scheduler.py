"""A scheduler without executors: each step has a made-up token for every open request, as fast as it is read.

It begins when no further request comes, so that all of a load run together.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator

import grpc
import numpy as np

from quire.internal.v1 import scheduler_pb2, scheduler_pb2_grpc
from quire.v1 import inference_pb2

MAX_MODEL_LEN = 1 << 24
# Steps for which the requests stay the same, so that little is done for each.
STEPS_AT_ONCE = 64
# Without a further request, before the first step.
QUIET_SECONDS = 0.5
# Of the demo model special tokens are below this.
FIRST_TOKEN = 3


class TirelessScheduler(scheduler_pb2_grpc.SchedulerServiceServicer):
    """
    Args:
        tokenizer_fingerprint: of the frontend's model.
        vocab_size: tokens are drawn below this.
        steps_per_second: at most; 0: as many as are read.
    """

    def __init__(self, tokenizer_fingerprint: str, vocab_size: int, steps_per_second: float) -> None:
        self._state = scheduler_pb2.ServingState(
            epoch=1,
            num_executors=1,
            vocab_size=vocab_size,
            max_model_len=MAX_MODEL_LEN,
            num_blocks=1 << 20,
            block_size=64,
            tokenizer_fingerprint=tokenizer_fingerprint,
        )
        self._interval = 1 / steps_per_second if steps_per_second else 0.0
        self._started: set[int] = set()
        self._random = np.random.default_rng(0)

    async def Connect(  # noqa: N802
        self,
        request_iterator: AsyncIterator[scheduler_pb2.ConnectRequest],
        context: grpc.aio.ServicerContext[scheduler_pb2.ConnectRequest, scheduler_pb2.ConnectResponse],
    ) -> AsyncIterator[scheduler_pb2.ConnectResponse]:
        queue = scheduler_pb2.QueueState(room=1 << 20)
        yield scheduler_pb2.ConnectResponse(state=self._state, queue=queue)
        # Tokens that each open request is still to get.
        left: dict[int, int] = {}
        came = asyncio.Event()
        reader = asyncio.create_task(self._read(request_iterator, left, came))
        loop, due = asyncio.get_running_loop(), 0.0
        try:
            while True:
                if not left:
                    await self._until_all_came(came)
                for output in self._steps(left):
                    due = max(due + self._interval, loop.time())
                    if self._interval:
                        await asyncio.sleep(due - loop.time())
                    yield scheduler_pb2.ConnectResponse(output=output)
        finally:
            reader.cancel()

    @staticmethod
    async def _until_all_came(came: asyncio.Event) -> None:
        await came.wait()
        while came.is_set():
            came.clear()
            await asyncio.sleep(QUIET_SECONDS)

    async def _read(
        self, requests: AsyncIterator[scheduler_pb2.ConnectRequest], left: dict[int, int], came: asyncio.Event
    ) -> None:
        async for request in requests:
            for submission in request.submissions:
                left[submission.handle] = submission.sampling.max_tokens
                came.set()
            for handle in request.cancels:
                left.pop(handle, None)

    def _steps(self, left: dict[int, int]) -> Iterator[scheduler_pb2.StepOutput]:
        """The next steps of all that are open now; the last one ends those that have all their tokens."""
        handles = list(left)
        new = [handle for handle in handles if handle not in self._started]
        self._started.update(new)
        packed = np.array(handles, np.int32).tobytes()
        num_steps = min(STEPS_AT_ONCE, *left.values())
        ids = self._random.integers(FIRST_TOKEN, self._state.vocab_size, (num_steps, len(handles)), np.int32)
        for step in range(num_steps):
            output = scheduler_pb2.StepOutput(handles=packed, token_ids=ids[step].tobytes())
            if new and step == 0:
                output.started_handles = np.array(new, np.int32).tobytes()
                output.cached_tokens = output.queue_seconds = bytes(4 * len(new))
            if step == num_steps - 1:
                output.finished.extend(self._ended(left, handles, num_steps))
            yield output

    def _ended(
        self, left: dict[int, int], handles: list[int], num_steps: int
    ) -> Iterator[scheduler_pb2.SequenceFinished]:
        for handle in handles:
            if handle in left:
                left[handle] -= num_steps
                if not left[handle]:
                    del left[handle]
                    self._started.discard(handle)
                    reason = inference_pb2.FINISH_REASON_LENGTH
                    yield scheduler_pb2.SequenceFinished(handle=handle, reason=reason)
