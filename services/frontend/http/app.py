"""The routes of the HTTP API."""

from collections.abc import Sequence

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect
from starlette.routing import BaseRoute, Route

from quire.engine.api.errors import RequestError
from quire.engine.chat.chat_format import ChatFormat
from quire.services.common.intake import Intake
from quire.services.frontend.call import UNTRACED, Calls
from quire.services.frontend.http.access import EVERYBODY, HttpAccess
from quire.services.frontend.http.adapters import HttpAdapters
from quire.services.frontend.http.calls import HttpCalls
from quire.services.frontend.http.chat_completions import ChatCompletions
from quire.services.frontend.http.completions import Completions
from quire.services.frontend.http.disconnect import leave
from quire.services.frontend.http.embeddings import Embeddings
from quire.services.frontend.http.errors import refuse, refuse_fault, refuse_route
from quire.services.frontend.http.kserve import KServe
from quire.services.frontend.http.metrics import CountRequests, Metrics
from quire.services.frontend.http.models import Models
from quire.services.frontend.http.responses import Responses
from quire.services.frontend.http.tokens import Tokens
from quire.services.frontend.inference import Inference
from quire.services.frontend.workers_metrics import WorkersMetrics


def make_app(
    inference: Inference,
    chat: ChatFormat,
    intake: Intake,
    workers: WorkersMetrics,
    access: HttpAccess = EVERYBODY,
    further_routes: Sequence[BaseRoute] = (),
    calls: Calls = UNTRACED,
) -> Starlette:
    """The API over the frontend's request path.

    Args:
        inference: answers prompts.
        chat: makes prompts of messages.
        intake: bounds bodies and parses large ones.
        workers: what /metrics answers, with the meter of this one.
        access: who may call it.
        further_routes: what else is served beside the API.
        calls: begins each.
    """
    routes = [*_routes(inference, chat), Route("/metrics", Metrics(workers).get), *further_routes]
    app = Starlette(
        routes=routes,
        middleware=[
            Middleware(CountRequests, workers.meter, routes),
            *access.middleware(),
            Middleware(HttpCalls, calls=calls),
        ],
        exception_handlers={
            ClientDisconnect: leave,
            RequestError: refuse,
            HTTPException: refuse_route,
            Exception: refuse_fault,
        },
    )
    app.state.intake = intake
    return app


def _routes(inference: Inference, chat: ChatFormat) -> list[BaseRoute]:
    chats, responses = ChatCompletions(inference, chat), Responses(inference, chat)
    completions, models, tokens = Completions(inference), Models(inference), Tokens(inference, chat)
    kserve, embeddings, adapters = KServe(inference), Embeddings(inference), HttpAdapters(inference)
    return [
        Route("/v1/completions", completions.create, methods=["POST"]),
        Route("/v1/chat/completions", chats.create, methods=["POST"]),
        Route("/v1/responses", responses.create, methods=["POST"]),
        Route("/v1/embeddings", embeddings.create, methods=["POST"]),
        Route("/score", embeddings.score, methods=["POST"]),
        Route("/v1/load_lora_adapter", adapters.load, methods=["POST"]),
        Route("/v1/unload_lora_adapter", adapters.unload, methods=["POST"]),
        Route("/v1/models", models.list),
        # Names of hub models have a slash.
        Route("/v1/models/{model:path}", models.get),
        Route("/health", models.health),
        Route("/ping", models.health, methods=["GET", "POST"]),
        Route("/version", models.version),
        Route("/v2", kserve.server),
        Route("/v2/health/live", kserve.live),
        Route("/v2/health/ready", kserve.ready),
        Route("/v2/models/{model:path}/ready", kserve.model_ready),
        Route("/v2/models/{model:path}", kserve.model),
        Route("/tokenize", tokens.tokenize, methods=["POST"]),
        Route("/detokenize", tokens.detokenize, methods=["POST"]),
        Route("/tokenizer_info", tokens.info),
    ]
