"""The routes of the HTTP API."""

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.routing import Route

from quire.engine.api.errors import RequestError
from quire.engine.chat.chat_format import ChatFormat
from quire.services.common.intake import Intake
from quire.services.frontend.http.chat_completions import ChatCompletions
from quire.services.frontend.http.completions import Completions
from quire.services.frontend.http.disconnect import leave
from quire.services.frontend.http.errors import refuse, refuse_fault, refuse_route
from quire.services.frontend.http.kserve import KServe
from quire.services.frontend.http.models import Models
from quire.services.frontend.http.tokens import Tokens
from quire.services.frontend.inference import Inference


def make_app(inference: Inference, chat: ChatFormat, intake: Intake) -> Starlette:
    """The API over the frontend's request path; the intake bounds bodies and parses large ones."""
    chats = ChatCompletions(inference, chat)
    completions, models, tokens = Completions(inference), Models(inference), Tokens(inference)
    kserve = KServe(inference)
    app = Starlette(
        routes=[
            Route("/v1/completions", completions.create, methods=["POST"]),
            Route("/v1/chat/completions", chats.create, methods=["POST"]),
            Route("/v1/models", models.list),
            # Names of hub models have a slash.
            Route("/v1/models/{model:path}", models.get),
            Route("/health", models.health),
            Route("/v2", kserve.server),
            Route("/v2/health/live", kserve.live),
            Route("/v2/health/ready", kserve.ready),
            Route("/v2/models/{model:path}/ready", kserve.model_ready),
            Route("/v2/models/{model:path}", kserve.model),
            Route("/tokenize", tokens.tokenize, methods=["POST"]),
            Route("/detokenize", tokens.detokenize, methods=["POST"]),
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
