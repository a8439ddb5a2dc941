"""The span of a client's call, in the terms of OpenTelemetry's conventions for generative AI.

https://github.com/open-telemetry/semantic-conventions-genai, as of 2026. Numbers and names only: neither prompts nor
answers.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from google.rpc import code_pb2

from quire.engine.api.completion import Completion
from quire.engine.api.errors import RequestError
from quire.engine.api.sampling import SamplingParams
from quire.protos.status import code_of

if TYPE_CHECKING:
    from opentelemetry.trace import Span

    from quire.services.common.otlp import Tracer

_FAULTS: Final = (code_pb2.INTERNAL, code_pb2.UNAVAILABLE)


class CallSpan:
    """Says of one call what was asked for and what came of it.

    Args:
        span: that is recorded.
        id_prefix: in front of the request's id in the answer's.
    """

    def __init__(self, tracer: "Tracer", span: "Span", id_prefix: str) -> None:
        self._tracer = tracer
        self._span = span
        self._id_prefix = id_prefix
        self._began = time.monotonic()
        self._has_first = False
        self._usage = [0, 0, 0]
        self._finish_reasons: list[str] = []

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """A child span, for what happens inside."""
        child = self._tracer.child(name, self._span)
        try:
            yield
        except BaseException as error:
            self._tracer.fail(child, error, _is_fault(error))
            raise
        finally:
            child.end()

    def ask(self, model: str, params: SamplingParams) -> None:
        """What is asked for, with every default filled in."""
        about = {
            "gen_ai.request.model": model,
            "gen_ai.request.max_tokens": params.max_tokens,
            "gen_ai.request.temperature": params.temperature,
            "gen_ai.request.top_p": params.top_p,
            "gen_ai.request.top_k": params.top_k or None,
            # A span's numbers have a sign; half of all seeds would not fit.
            "gen_ai.request.seed": params.seed if (params.seed or 0) < 2**63 else str(params.seed),
            "gen_ai.request.presence_penalty": params.presence_penalty or None,
            "gen_ai.request.frequency_penalty": params.frequency_penalty or None,
        }
        self._span.set_attributes({name: value for name, value in about.items() if value is not None})

    def open(self, whole: bool) -> None:
        """An answer is begun that comes in one piece, or is streamed."""
        self._span.set_attribute("gen_ai.request.stream", not whole)

    def choose(self, num_choices: int) -> None:
        """So many answers to a prompt are asked for."""
        if num_choices > 1:
            self._span.set_attribute("gen_ai.request.choice.count", num_choices)

    def take(self, piece: Completion) -> None:
        """A piece of an answer has come."""
        if not self._has_first:
            self._has_first = True
            self._span.set_attribute("gen_ai.response.time_to_first_chunk", time.monotonic() - self._began)
            self._span.set_attribute("gen_ai.response.id", f"{self._id_prefix}{piece.request_id}")
        if piece.finish_reason is not None and piece.usage is not None:
            self._finish_reasons.append(piece.finish_reason.name.lower())
            usage = piece.usage
            counts = (usage.prompt_tokens, usage.cached_tokens, usage.generated_tokens)
            self._usage = [total + count for total, count in zip(self._usage, counts, strict=True)]

    def fail(self, error: BaseException) -> None:
        """It could not be answered, or not to the end."""
        self._tracer.fail(self._span, error, _is_fault(error))

    def end(self, name: str, status: str | int) -> None:
        """It is over.

        Args:
            name: of the attribute that says with which status.
        """
        num_prompt, num_cached, num_generated = self._usage
        self._span.set_attribute(name, status)
        if self._finish_reasons:
            self._span.set_attributes(
                {
                    "gen_ai.response.finish_reasons": self._finish_reasons,
                    "gen_ai.usage.input_tokens": num_prompt,
                    "gen_ai.usage.cache_read.input_tokens": num_cached,
                    "gen_ai.usage.output_tokens": num_generated,
                }
            )
        self._span.end()


def _is_fault(error: BaseException) -> bool:
    """Whether it is this server's; mistakes of clients are none, nor is their leaving."""
    return code_of(error) in _FAULTS if isinstance(error, RequestError) else isinstance(error, Exception)
