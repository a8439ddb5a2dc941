"""Scheduler, ledger and executor in one process, under one event loop."""

import asyncio
from contextlib import suppress

from quire.engine.adapter_names import check_adapter_name, find_adapter
from quire.engine.api.adapter import Adapter
from quire.engine.api.completion import FinishReason
from quire.engine.api.errors import RequestError
from quire.engine.api.options import RequestOptions
from quire.engine.api.sampling import SamplingParams
from quire.engine.arrays import Int32Array
from quire.engine.config import SchedulerConfig
from quire.engine.executor import Executor
from quire.engine.local_runner import LocalRunner
from quire.engine.loop import StepLoop
from quire.engine.open_request import Finish, OpenRequest, scheduled_params
from quire.engine.request import Request
from quire.engine.resources.ledger.memory import MemoryLedger
from quire.engine.resources.ledger.pool_state import PoolIdentity, PoolState
from quire.engine.scheduling.plugins import NO_PLUGINS, Plugins
from quire.engine.scheduling.scheduler import Scheduler
from quire.engine.scheduling.statistics import SchedulerStatistics
from quire.engine.scheduling.step_output import StepOutput
from quire.engine.sequence import Sequence
from quire.engine.step import limits_of
from quire.engine.validation import fill_defaults, validate, validate_options

_EPOCH = 1


class LocalEngine:
    """What the services do together, without gRPC and Redis. All methods belong to the loop it was made on.

    Attributes:
        limits: what a request may ask for.
        eos_token_ids: the model's own end tokens.
        max_batch_size: sequences that run at once.
    """

    def __init__(self, executor: Executor, config: SchedulerConfig, plugins: Plugins = NO_PLUGINS) -> None:
        info = executor.info
        self.limits = limits_of(info)
        pool = PoolIdentity(
            "local", info.incarnation, info.fingerprint, info.num_blocks, info.block_size, info.cache_windows
        )
        self.eos_token_ids = info.eos_token_ids
        self.max_batch_size = info.max_batch_size
        self._ledger = MemoryLedger()
        self._scheduler = Scheduler(config, info, PoolState(info.num_blocks), plugins=plugins)
        # Last of what may fail: its threads end only by `stop`.
        self._runner = LocalRunner(executor)
        self._loop = StepLoop(self._scheduler, self._ledger, pool, _EPOCH, self._runner, self._deliver)
        self._open: dict[int, tuple[OpenRequest, Sequence]] = {}
        self._deadlines: dict[int, asyncio.TimerHandle] = {}
        self._adapters: dict[str, Adapter] = {}
        self._num_requests = 0
        self._pool = pool
        self._task = asyncio.create_task(self._run())

    def submit(
        self, prompt: Int32Array, params: SamplingParams, options: RequestOptions, *, is_resumed: bool = False
    ) -> OpenRequest:
        """Opens a request; `close` it when it is over or no longer wanted.

        Args:
            is_resumed: it goes on with what was accepted before: it waits ahead of new ones, and no bound refuses it.

        Raises:
            RequestError: it is refused.
        """
        if self._task.done():
            raise RequestError("the engine has stopped")
        params = fill_defaults(params, len(prompt), self.limits)
        validate(prompt, params, self.limits)
        validate_options(options)
        self._num_requests += 1
        opened = OpenRequest(self._num_requests, str(self._num_requests), prompt, params)
        request = Request(
            opened.request_id, 0, opened.handle, prompt, prompt[:0], scheduled_params(params), options, is_resumed,
            adapter=self._adapter(options.adapter),
        )  # fmt: skip
        sequence = Sequence(request, self.eos_token_ids)
        self._scheduler.add(sequence)
        self._open[opened.handle] = opened, sequence
        if options.deadline_ms is not None:
            seconds = options.deadline_ms / 1000
            self._deadlines[opened.handle] = asyncio.get_running_loop().call_later(seconds, self._abort, opened)
        self._loop.wake()
        return opened

    async def load_adapter(self, name: str, path: str) -> Adapter:
        """Takes an adapter of a PEFT folder under a name; one that had the name is gone for further requests.

        Raises:
            InvalidRequest: it is none of this model.
        """
        check_adapter_name("name", name)
        self._adapters[name] = await self._runner.examine(name, path)
        return self._adapters[name]

    def unload_adapter(self, name: str) -> None:
        """No further request may name it; those that have go on.

        Raises:
            InvalidRequest: there is none of this name.
        """
        find_adapter("name", name, self._adapters)
        self._adapters.pop(name, None)

    @property
    def adapters(self) -> list[Adapter]:
        """Those that requests may name."""
        return list(self._adapters.values())

    def _adapter(self, name: str) -> Adapter | None:
        return find_adapter("adapter", name, self._adapters)

    def close(self, request: OpenRequest) -> None:
        """Ends a request if it still runs; harmless if closed already."""
        if timer := self._deadlines.pop(request.handle, None):
            timer.cancel()
        if found := self._open.pop(request.handle, None):
            self._scheduler.cancel(found[1])
            self._loop.wake()

    @property
    def statistics(self) -> SchedulerStatistics:
        return self._scheduler.statistics

    def _abort(self, request: OpenRequest) -> None:
        request.end(Finish(FinishReason.ABORTED))
        self.close(request)

    async def stop(self) -> None:
        """Fails what is open and waits for the step that runs."""
        self._task.cancel()
        # A fault that has ended it before was told to every request.
        with suppress(asyncio.CancelledError, Exception):
            await self._task
        self._runner.close()

    async def _run(self) -> None:
        error = RequestError("the engine has stopped")
        try:
            await self._ledger.open(self._pool, _EPOCH)
            await self._loop.run()
        except Exception as fault:
            error = RequestError(f"the engine has failed: {fault}")
            raise
        finally:
            for opened, _ in self._open.values():
                opened.end(error)

    def _deliver(self, output: StepOutput) -> None:
        output.update().deliver(self._find)
        for sequence, _ in output.ended:
            self._open.pop(sequence.request.handle, None)

    def _find(self, sequence: Sequence) -> OpenRequest | None:
        found = self._open.get(sequence.request.handle)
        return found[0] if found else None
