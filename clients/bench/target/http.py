"""Any server with OpenAI's /v1/completions."""

import json
import ssl
import time
from pathlib import Path
from typing import Annotated, Any

import aiohttp
from pydantic import BaseModel, Field, ValidationError

from quire.clients.bench.mistake import first_mistake
from quire.clients.bench.record import Record
from quire.clients.bench.target.base import INFO_SECONDS, Exchange, ServerInfo
from quire.clients.bench.workload.session import Prompt
from quire.clients.sse import events
from quire.engine.api.errors import StartupError, Unavailable

_HEADERS = {"Content-Type": "application/json"}
_Count = Annotated[int, Field(ge=0, lt=2**53)]


class _Card(BaseModel):
    """A model in the list. Servers say different things of it."""

    id: str
    vocab_size: Annotated[int, Field(ge=2, lt=2**31)] | None = None
    max_model_len: _Count | None = None


class _Models(BaseModel):
    data: list[_Card]


class _PromptDetails(BaseModel):
    cached_tokens: _Count | None = None


class _Usage(BaseModel):
    prompt_tokens: _Count | None = None
    completion_tokens: _Count | None = None
    prompt_tokens_details: _PromptDetails | None = None


class HttpTarget:
    """An OpenAI-compatible server; token counts are those of its `usage`.

    Args:
        url: such as "http://127.0.0.1:8000".
        model: name to ask for; None: the first that the server lists.
        ignore_eos: go on past end tokens; understood by Quire, vLLM, SGLang, TensorRT-LLM and llama.cpp.
        temperature: 0 is greedy.
        timeout: seconds for one request.
        api_key: brought by every request; "": none.
        authority: file with the authorities that the server's certificate must come from; None: the system's.

    Raises:
        StartupError: the file cannot be used.
    """

    def __init__(
        self,
        url: str,
        model: str | None,
        ignore_eos: bool,
        temperature: float,
        timeout: float,
        api_key: str = "",
        authority: Path | None = None,
    ) -> None:
        self._url = url.rstrip("/").removesuffix("/v1")
        self._model = model
        self._timeout = timeout
        self._options = {"temperature": temperature, "stream": True, "stream_options": {"include_usage": True}}
        if ignore_eos:
            self._options["ignore_eos"] = True
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, ssl=_context(authority)),
            headers={"Authorization": f"Bearer {api_key}"} if api_key else None,
            timeout=aiohttp.ClientTimeout(total=timeout),
            read_bufsize=2**20,
        )

    async def info(self) -> ServerInfo:
        url = f"{self._url}/v1/models"
        limit = aiohttp.ClientTimeout(min(self._timeout, INFO_SECONDS))
        try:
            async with self._session.get(url, timeout=limit) as response:
                response.raise_for_status()
                cards = _Models.model_validate_json(await response.read()).data
        except ValidationError as error:
            raise Unavailable(f"{url}: no list of models: {first_mistake(error)}") from error
        except TimeoutError as error:
            raise Unavailable(f"{url}: no answer within {limit.total:g} s") from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise Unavailable(f"{url}: {error or type(error).__name__}") from error
        named = [card for card in cards if self._model in (None, card.id)]
        if not named:
            raise Unavailable(f"--model {self._model}: {self._url} serves {[card.id for card in cards]}")
        self._model = named[0].id
        return ServerInfo(named[0].id, named[0].vocab_size, named[0].max_model_len)

    def encode(self, prompt: Prompt, output_tokens: int) -> bytes:
        body: dict[str, Any] = {"model": self._model, "prompt": prompt, "max_tokens": output_tokens}
        return json.dumps(body | self._options, separators=(",", ":")).encode()

    async def send(self, payload: bytes) -> Exchange:
        exchange = Exchange(time.perf_counter(), 0.0, [])
        url = f"{self._url}/v1/completions"
        try:
            async with self._session.post(url, data=payload, headers=_HEADERS) as response:
                if response.status != 200:
                    exchange.error = f"HTTP {response.status}"
                    exchange.detail = (await response.read())[:500].decode(errors="replace")
                else:
                    async for part in response.content.iter_any():
                        exchange.parts.append((time.perf_counter(), part))
        except TimeoutError:
            exchange.error = "timeout"
        except (aiohttp.ClientError, OSError, ValueError) as error:
            exchange.error, exchange.detail = type(error).__name__, str(error)
        exchange.ended = time.perf_counter()
        return exchange

    def digest(self, exchange: Exchange) -> Record:
        arrivals: list[float] = []
        usage = _Usage()
        error, detail = exchange.error, exchange.detail
        try:
            for moment, event in events(exchange.parts):
                if event is None:
                    continue
                if "error" in event:
                    error, detail = "error in the stream", str(event["error"])
                if event.get("usage") is not None:
                    usage = _Usage.model_validate(event["usage"], strict=True)
                if event.get("choices"):
                    arrivals.append(moment)
        except ValidationError as fault:
            error, detail = error or "broken stream", detail or f"usage: {first_mistake(fault)}"
        except (ValueError, TypeError, AttributeError, RecursionError) as fault:
            error, detail = error or "broken stream", detail or repr(fault)
        count = len(arrivals) if usage.completion_tokens is None else usage.completion_tokens
        # Some servers close with an event that brings no token.
        del arrivals[count:]
        cached = usage.prompt_tokens_details and usage.prompt_tokens_details.cached_tokens
        return Record(
            sent=exchange.sent,
            ended=exchange.ended,
            arrivals=tuple(arrivals),
            output_tokens=count,
            prompt_tokens=usage.prompt_tokens or 0,
            cached_tokens=cached or 0,
            error=error or (None if arrivals else "no tokens"),
            detail=detail,
        )

    async def close(self) -> None:
        await self._session.close()


def _context(authority: Path | None) -> ssl.SSLContext | bool:
    if authority is None:
        return True
    try:
        return ssl.create_default_context(cafile=authority)
    except OSError as error:
        raise StartupError(f"--tls-ca {authority}: {error.strerror}") from error
