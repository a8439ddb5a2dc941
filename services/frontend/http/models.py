"""GET /v1/models, GET /health and GET /version: what is served, and whether it can be now."""

import time
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse

from quire.engine.api.errors import Unavailable
from quire.engine.api.version import __version__
from quire.services.frontend.inference import Inference


class Models:
    """The one model of this frontend, and its adapters."""

    def __init__(self, inference: Inference) -> None:
        self._inference = inference
        self._started = int(time.time())

    async def list(self, request: Request) -> JSONResponse:
        """GET /v1/models."""
        adapters = sorted(self._inference.adapters)
        return JSONResponse({"object": "list", "data": [self._card(), *map(self._adapter_card, adapters)]})

    async def get(self, request: Request) -> JSONResponse:
        """GET /v1/models/{model}."""
        adapter = self._inference.adapter(request.path_params["model"])
        return JSONResponse(self._adapter_card(adapter) if adapter else self._card())

    async def health(self, request: Request) -> JSONResponse:
        """GET /health: 200 exactly while tokens can be made."""
        if reason := self._inference.not_serving_reason:
            raise Unavailable(reason)
        return JSONResponse({"status": "ok"})

    async def version(self, request: Request) -> JSONResponse:
        """GET /version."""
        return JSONResponse({"version": __version__})

    def _card(self) -> dict[str, Any]:
        state = self._inference.state
        return {
            "id": self._inference.model,
            "object": "model",
            "created": self._started,
            "owned_by": "quire",
            # Not known before there is an executor.
            "max_model_len": state.max_model_len or None,
            "vocab_size": state.vocab_size or None,
        }

    def _adapter_card(self, name: str) -> dict[str, Any]:
        root = {"root": self._inference.adapters[name].path, "parent": self._inference.model}
        return self._card() | {"id": name} | root
