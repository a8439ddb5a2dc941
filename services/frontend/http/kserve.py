"""GET /v2: health and metadata as the Open Inference Protocol has them over HTTP. Inference is over gRPC."""

from collections.abc import Iterable
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse

from quire.engine.api.errors import UnknownModel
from quire.kserve import open_inference_pb2 as pb
from quire.services.frontend.inference import Inference
from quire.services.frontend.kserve.metadata import check_model, model_metadata, server_metadata


class KServe:
    """The one model of this frontend. An error is {"error": text}, as the protocol has it."""

    def __init__(self, inference: Inference) -> None:
        self._inference = inference

    async def server(self, request: Request) -> JSONResponse:
        """GET /v2."""
        found = server_metadata()
        return JSONResponse({"name": found.name, "version": found.version, "extensions": list(found.extensions)})

    async def live(self, request: Request) -> JSONResponse:
        """GET /v2/health/live: 200."""
        return JSONResponse({"live": True})

    async def ready(self, request: Request) -> JSONResponse:
        """GET /v2/health/ready: 200 exactly while tokens can be made, else 503."""
        reason = self._inference.not_serving_reason
        return JSONResponse({"ready": True}) if reason is None else JSONResponse({"error": reason}, 503)

    async def model(self, request: Request) -> JSONResponse:
        """GET /v2/models/{model}."""
        if refusal := self._refusal(request):
            return refusal
        found = model_metadata(self._inference.model)
        fields = {"name": found.name, "versions": list(found.versions), "platform": found.platform}
        return JSONResponse({**fields, "inputs": _tensors(found.inputs), "outputs": _tensors(found.outputs)})

    async def model_ready(self, request: Request) -> JSONResponse:
        """GET /v2/models/{model}/ready: as `ready`."""
        return self._refusal(request) or await self.ready(request)

    def _refusal(self, request: Request) -> JSONResponse | None:
        """404 for a model that is not served."""
        try:
            check_model(self._inference, request.path_params["model"])
        except UnknownModel as error:
            return JSONResponse({"error": str(error)}, 404)
        return None


def _tensors(tensors: Iterable[pb.ModelMetadataResponse.TensorMetadata]) -> list[dict[str, Any]]:
    return [{"name": each.name, "datatype": each.datatype, "shape": list(each.shape)} for each in tensors]
