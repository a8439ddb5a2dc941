"""The routes of the HTTP API."""

from collections.abc import Sequence

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect
from starlette.routing import BaseRoute, Route

from quire.engine.api.errors import RequestError
from quire.engine.chat.chat_format import ChatFormat
from quire.services.common.intake import Intake
from quire.services.frontend.call import UNTRACED, Calls
from quire.services.frontend.http.allowed_hosts import ANY, AllowedHosts
from quire.services.frontend.http.api_key_check import ApiKeyCheck
from quire.services.frontend.http.calls import HttpCalls
from quire.services.frontend.http.chat_completions import ChatCompletions
from quire.services.frontend.http.completions import Completions
from quire.services.frontend.http.disconnect import leave
from quire.services.frontend.http.embeddings import Embeddings
from quire.services.frontend.http.errors import refuse, refuse_fault, refuse_route
from quire.services.frontend.http.kserve import KServe
from quire.services.frontend.http.metrics import CountRequests, Metrics
from quire.services.frontend.http.models import Models
from quire.services.frontend.http.request_ids import HEADER, RequestIds
from quire.services.frontend.http.responses import Responses
from quire.services.frontend.http.tokens import Tokens
from quire.services.frontend.inference import Inference
from quire.services.frontend.tenants.api_keys import ApiKeys
from quire.services.frontend.workers_metrics import WorkersMetrics


def make_app(
    inference: Inference,
    chat: ChatFormat,
    intake: Intake,
    workers: WorkersMetrics,
    cors_origins: Sequence[str] = (),
    further_routes: Sequence[BaseRoute] = (),
    calls: Calls = UNTRACED,
    allowed_hosts: Sequence[str] = (ANY,),
    keys: ApiKeys | None = None,
) -> Starlette:
    """The API over the frontend's request path.

    Args:
        inference: answers prompts.
        chat: makes prompts of messages.
        intake: bounds bodies and parses large ones.
        workers: what /metrics answers, with the meter of this one.
        cors_origins: of web pages that may call it; "*": any.
        further_routes: what else is served beside the API.
        calls: begins each.
        allowed_hosts: names that requests may give it; "*": any.
        keys: of which each request must bring one; None: it need not.
    """
    chats = ChatCompletions(inference, chat)
    responses = Responses(inference, chat)
    completions, models, tokens = Completions(inference), Models(inference), Tokens(inference, chat)
    kserve, embeddings = KServe(inference), Embeddings(inference)
    routes = [
        Route("/v1/completions", completions.create, methods=["POST"]),
        Route("/v1/chat/completions", chats.create, methods=["POST"]),
        Route("/v1/responses", responses.create, methods=["POST"]),
        Route("/v1/embeddings", embeddings.create, methods=["POST"]),
        Route("/score", embeddings.score, methods=["POST"]),
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
        Route("/metrics", Metrics(workers).get),
        *further_routes,
    ]
    app = Starlette(
        routes=routes,
        middleware=[
            Middleware(CountRequests, workers.meter, routes),
            *_hosts(allowed_hosts),
            *_cors(cors_origins),
            Middleware(RequestIds),
            *([] if keys is None else [Middleware(ApiKeyCheck, keys)]),
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


def _hosts(allowed: Sequence[str]) -> list[Middleware]:
    return [] if ANY in allowed else [Middleware(AllowedHosts, allowed)]


def _cors(origins: Sequence[str]) -> list[Middleware]:
    if not origins:
        return []
    return [
        Middleware(
            CORSMiddleware,
            allow_origins=origins,
            allow_methods=["*"],
            allow_headers=["*"],
            expose_headers=[HEADER],
        )
    ]
