"""Any server with OpenAI's /v1/completions."""

import json
import time
from typing import Any

import aiohttp

from quire.clients.bench.record import Record
from quire.clients.bench.target.base import Exchange, ServerInfo
from quire.clients.bench.target.sse import events
from quire.clients.bench.workload.session import Prompt
from quire.engine.api.errors import Unavailable

_HEADERS = {"Content-Type": "application/json"}


class HttpTarget:
    """An OpenAI-compatible server; token counts are those of its `usage`.

    Args:
        url: such as "http://127.0.0.1:8000".
        model: name to ask for; None: the first that the server lists.
        ignore_eos: go on past end tokens; understood by Quire, vLLM, SGLang, TensorRT-LLM and llama.cpp.
        temperature: 0 is greedy.
        timeout: seconds for one request.
    """

    def __init__(self, url: str, model: str | None, ignore_eos: bool, temperature: float, timeout: float) -> None:
        self._url = url.rstrip("/").removesuffix("/v1")
        self._model = model
        self._options = {"temperature": temperature, "stream": True, "stream_options": {"include_usage": True}}
        if ignore_eos:
            self._options["ignore_eos"] = True
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0),
            timeout=aiohttp.ClientTimeout(total=timeout),
            read_bufsize=2**20,
        )

    async def info(self) -> ServerInfo:
        try:
            async with self._session.get(f"{self._url}/v1/models") as response:
                response.raise_for_status()
                cards = (await response.json())["data"]
        except (aiohttp.ClientError, TimeoutError, KeyError, ValueError) as error:
            raise Unavailable(f"{self._url}/v1/models: {error!r}") from error
        named = [card for card in cards if self._model in (None, card["id"])]
        if not named:
            raise Unavailable(f"--model {self._model}: {self._url} serves {[card['id'] for card in cards]}")
        card = named[0]
        self._model = card["id"]
        return ServerInfo(card["id"], card.get("vocab_size"), card.get("max_model_len"))

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
                    exchange.detail = (await response.text())[:500]
                else:
                    async for part in response.content.iter_any():
                        exchange.parts.append((time.perf_counter(), part))
        except TimeoutError:
            exchange.error = "timeout"
        except aiohttp.ClientError as error:
            exchange.error, exchange.detail = type(error).__name__, str(error)
        exchange.ended = time.perf_counter()
        return exchange

    def digest(self, exchange: Exchange) -> Record:
        arrivals: list[float] = []
        usage: dict[str, Any] = {}
        error, detail = exchange.error, exchange.detail
        try:
            for moment, event in events(exchange.parts):
                if event is None:
                    continue
                if "error" in event:
                    error, detail = "error in the stream", str(event["error"])
                usage = event.get("usage") or usage
                if event.get("choices"):
                    arrivals.append(moment)
        except (ValueError, AttributeError) as fault:
            error, detail = error or "broken stream", detail or repr(fault)
        count = usage.get("completion_tokens", len(arrivals))
        # Some servers close with an event that brings no token.
        del arrivals[max(count, 0) :]
        details = usage.get("prompt_tokens_details") or {}
        return Record(
            sent=exchange.sent,
            ended=exchange.ended,
            arrivals=tuple(arrivals),
            output_tokens=count,
            prompt_tokens=usage.get("prompt_tokens") or 0,
            cached_tokens=details.get("cached_tokens") or 0,
            error=error or (None if arrivals else "no tokens"),
            detail=detail,
        )

    async def close(self) -> None:
        await self._session.close()
