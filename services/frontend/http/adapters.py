"""POST /v1/load_lora_adapter and /v1/unload_lora_adapter, as vLLM has them."""

from dataclasses import asdict

from starlette.requests import Request
from starlette.responses import JSONResponse

from quire.engine.api.errors import RequestError
from quire.services.frontend.http.body import Body, read_body
from quire.services.frontend.http.errors import FieldNames, refusal
from quire.services.frontend.inference import Inference

_NAMES: FieldNames = (("name", "lora_name"), ("path", "lora_path"))


class LoadAdapterBody(Body):
    """What is to be loaded, from where; in place of what has the name, if so."""

    lora_name: str
    lora_path: str
    load_inplace: bool = False


class UnloadAdapterBody(Body):
    """What is to be unloaded."""

    lora_name: str


class HttpAdapters:
    """Adapters over the frontend's request path."""

    def __init__(self, inference: Inference) -> None:
        self._inference = inference

    async def load(self, request: Request) -> JSONResponse:
        """POST /v1/load_lora_adapter: the adapter, once all executors have read it."""
        body = await read_body(request, LoadAdapterBody)
        try:
            adapter = await self._inference.load_adapter(body.lora_name, body.lora_path, replace=body.load_inplace)
        except RequestError as error:
            return refusal(error, _NAMES).response()
        return JSONResponse(asdict(adapter))

    async def unload(self, request: Request) -> JSONResponse:
        """POST /v1/unload_lora_adapter: its name, once no request can name it any more."""
        body = await read_body(request, UnloadAdapterBody)
        try:
            await self._inference.unload_adapter(body.lora_name)
        except RequestError as error:
            return refusal(error, _NAMES).response()
        return JSONResponse({"name": body.lora_name})
