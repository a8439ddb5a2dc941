"""Measures requests, as the frontend tells of them."""

from collections.abc import Collection
from dataclasses import dataclass
from time import monotonic

from quire.engine.api.errors import RequestError
from quire.engine.api.version import __version__
from quire.engine.open_request import OpenRequest
from quire.services.common.metrics.meter import Meter
from quire.services.common.metrics.outcome import CANCELLED, FINISHED, outcome_of, refusal_of
from quire.services.frontend import metrics
from quire.services.frontend.observer import FrontendObserver


@dataclass(slots=True)
class _Life:
    """Times of a request, in seconds; 0: not yet.

    Attributes:
        started: at the scheduler.
        first: its first token was here.
        told: it was told of `num_told` tokens last.
    """

    arrived: float
    submitted: float
    started: float = 0.0
    first: float = 0.0
    told: float = 0.0
    num_told: int = 0


class FrontendMeter(FrontendObserver):
    """Counts into a meter.

    Args:
        meter: of `metrics.METRICS`.
    """

    def __init__(self, meter: Meter) -> None:
        self._meter = meter
        self._lives: dict[OpenRequest, _Life] = {}
        meter.value(metrics.BUILD_INFO, __version__).value = 1
        for outcome in (*FINISHED, CANCELLED):
            meter.value(metrics.REQUESTS, outcome)
        histogram, value = meter.histogram, meter.value
        self._first_token, self._inter_token = histogram(metrics.FIRST_TOKEN), histogram(metrics.INTER_TOKEN)
        self._per_token, self._duration = histogram(metrics.PER_TOKEN), histogram(metrics.DURATION)
        self._queue, self._prefill = histogram(metrics.QUEUE), histogram(metrics.PREFILL)
        self._decode, self._inference = histogram(metrics.DECODE), histogram(metrics.INFERENCE)
        self._prompt, self._generation = histogram(metrics.REQUEST_PROMPT), histogram(metrics.REQUEST_GENERATION)
        self._recovery = histogram(metrics.RECOVERY, "scheduler")
        self._prompt_tokens, self._cached_tokens = value(metrics.PROMPT_TOKENS), value(metrics.CACHED_TOKENS)
        self._generation_tokens = value(metrics.GENERATION_TOKENS)

    def refuse(self, error: RequestError) -> None:
        self._meter.value(metrics.REFUSALS, *refusal_of(error)).value += 1

    def begin(self, request: OpenRequest, arrived: float) -> None:
        self._lives[request] = _Life(arrived, monotonic())

    def start(self, request: OpenRequest, queue_seconds: float) -> None:
        life = self._lives.get(request)
        if life is None or life.first:
            return
        now = monotonic()
        life.started = min(life.submitted + queue_seconds, now)
        life.first = life.told = now
        life.num_told = len(request.generated)
        self._first_token.observe(now - life.arrived)
        self._queue.observe(queue_seconds)
        self._prefill.observe(now - life.started)
        self._prompt.observe(len(request.prompt))
        self._prompt_tokens.value += len(request.prompt)
        self._cached_tokens.value += request.cached_tokens or 0
        self._count(request, "context", len(request.prompt) - (request.cached_tokens or 0))

    def tell(self, requests: Collection[OpenRequest], now: float) -> None:
        # This loop runs once per piece of text. Most were told of as many tokens in the same round as the one before.
        find, observe = self._lives.get, self._inter_token.observe
        told, size, num_tokens = 0.0, 0, 0
        for request in requests:
            life = find(request)
            if life is None or (count := len(request.generated) - life.num_told) <= 0:
                continue
            if life.told != told or count != size:
                if num_tokens:
                    observe((now - told) / size, num_tokens)
                told, size, num_tokens = life.told, count, 0
            num_tokens += count
            life.told = now
            life.num_told += count
        if num_tokens:
            observe((now - told) / size, num_tokens)

    def step(self, num_tokens: int) -> None:
        self._generation_tokens.value += num_tokens

    def end(self, request: OpenRequest) -> None:
        life = self._lives.pop(request, None)
        if life is None:
            return
        now, num_tokens = monotonic(), len(request.generated)
        self._tell_last(life, now, num_tokens)
        self._meter.value(metrics.REQUESTS, outcome_of(request.outcome)).value += 1
        self._duration.observe(now - life.arrived)
        if life.first:
            self._decode.observe(now - life.first)
            self._inference.observe(now - life.started)
            self._generation.observe(num_tokens)
            self._count(request, "generated", num_tokens)
            if num_tokens > 1:
                self._per_token.observe((now - life.first) / (num_tokens - 1))

    def _count(self, request: OpenRequest, kind: str, num_tokens: int) -> None:
        """Of its tenant; there are no more labels than tenants that the operator has named."""
        if tenant := request.options.tenant:
            self._meter.value(metrics.TENANT_TOKENS, tenant, kind).value += num_tokens

    def _tell_last(self, life: _Life, now: float, num_tokens: int) -> None:
        """Of a request's end: tokens that came with it, or that nobody was told of one by one."""
        if life.first and (count := num_tokens - life.num_told) > 0:
            self._inter_token.observe((now - life.told) / count, count)

    def recover(self, seconds: float) -> None:
        self._recovery.observe(seconds)
