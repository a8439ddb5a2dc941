"""What every API of the frontend stands on: requests checked, opened and followed. Knows no transport."""

import asyncio
import time
import uuid
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace

from quire.engine.adapter_names import check_adapter_name, check_adapter_path, find_adapter
from quire.engine.api.adapter import Adapter
from quire.engine.api.completion import Completion, join
from quire.engine.api.embedding import Embedding
from quire.engine.api.errors import Forbidden, InvalidRequest, RequestError, Unavailable, UnknownModel
from quire.engine.api.limits import MAX_REQUEST_ID_BYTES, ServingLimits
from quire.engine.api.options import DEFAULT_OPTIONS, PromptParams, RequestOptions
from quire.engine.api.sampling import SamplingParams, choice_params
from quire.engine.arrays import Int32Array
from quire.engine.open_request import OpenRequest
from quire.engine.text.bad_words import resolve_bad_words
from quire.engine.text.detokenizer import Detokenizer
from quire.engine.text.embedding import embedding_of
from quire.engine.text.encoder import TextEncoder
from quire.engine.text.pieces import Pieces
from quire.engine.text.tokenizer import Tokenizer, utf8
from quire.engine.token_ids import token_array
from quire.engine.validation import check_length, fill_defaults, validate, validate_options
from quire.internal.v1 import scheduler_pb2
from quire.services.frontend.call import current_call
from quire.services.frontend.observer import FrontendObserver
from quire.services.frontend.scheduler_link import SchedulerLink
from quire.services.frontend.tenants.api_keys import current_tenant
from quire.services.frontend.tenants.tenant import Tenant

# Steps that the scheduler may keep the tokens of an answer that is given in one piece: what is lost with it is computed
# again.
WHOLE_INTERVAL = 16
# Answers to the prompts of one request. More are better sent as requests of their own.
MAX_CHOICES = 128
# Of UTF-8: a text that is only tokenized has no context to fit into.
MAX_TOKENIZE_BYTES = 1024 * 1024
MAX_DETOKENIZE_IDS = 256 * 1024
# Token ids that are made text of before others have their turn.
_IDS_AT_ONCE = 2048


@dataclass(frozen=True, slots=True, eq=False)
class PreparedRequest:
    """A request that was checked and may be opened, also several times.

    Attributes:
        prompt: token ids, int32, shape (num_prompt,).
        params: with every default filled in.
        options: priority, cache and prompt.
        arrived: when, in seconds of `time.monotonic`.
        tenant: whose it is; None: tenants are not told apart.
    """

    prompt: Int32Array
    params: SamplingParams
    options: RequestOptions
    arrived: float
    tenant: Tenant | None

    def choice(self, index: int) -> "PreparedRequest":
        """The request for a further answer: each has a seed of its own, the first the request's."""
        return replace(self, params=choice_params(self.params, index))


class Inference:
    """The frontend's work. One object serves all of its APIs.

    Args:
        model: the name that clients know the model by.
        tokenizer: of the model's folder.
        link: to the scheduler.
        stream_interval: steps that a stream's tokens, but for the first, may wait to be sent together.
        observers: are told of requests that are refused.
        takes_adapters: whether clients may load and unload adapters.

    Attributes:
        model, tokenizer: as given.
    """

    def __init__(
        self,
        model: str,
        tokenizer: Tokenizer,
        link: SchedulerLink,
        stream_interval: int = 1,
        observers: Iterable[FrontendObserver] = (),
        takes_adapters: bool = False,
    ) -> None:
        self.model = model
        self._takes_adapters = takes_adapters
        self.tokenizer = tokenizer
        self._link = link
        self._encoder = TextEncoder(tokenizer)
        self._stream_interval = stream_interval
        self._observers = tuple(observers)
        self._tenants: dict[OpenRequest, Tenant] = {}
        self._draining = asyncio.Event()

    @property
    def unavailable_reason(self) -> str | None:
        """Why no request is taken now; None if they are."""
        return "this frontend is shutting down" if self._draining.is_set() else self._link.unavailable_reason

    @property
    def not_serving_reason(self) -> str | None:
        """Why no token can be made now; None if they can be."""
        return self.unavailable_reason or self._link.not_serving_reason

    @property
    def state(self) -> scheduler_pb2.ServingState:
        """The scheduler's latest serving state."""
        return self._link.state

    @property
    def adapters(self) -> Mapping[str, Adapter]:
        """Adapters that requests may name, by name."""
        return self._link.adapters

    def adapter(self, model: str | None) -> str:
        """The adapter that a model's name stands for; "" for the model itself, whose name may be left out.

        Raises:
            UnknownModel: it stands for nothing here.
        """
        if model is None or model == self.model:
            return ""
        if model not in self._link.adapters:
            raise UnknownModel(model, self.model, *self._link.adapters)
        return model

    async def load_adapter(self, name: str, path: str, *, replace: bool) -> Adapter:
        """Takes an adapter of a folder that the executors find, for requests to come.

        Raises:
            Forbidden: clients may not load adapters here.
            RequestError: it is refused.
        """
        self._check_updates()
        check_adapter_name("name", name)
        if name == self.model:
            raise InvalidRequest("name", name, "must not be the model's")
        check_adapter_path("path", path)
        return await self._link.load_adapter(name, path, replace=replace)

    async def unload_adapter(self, name: str) -> None:
        """No further request may name it.

        Raises:
            Forbidden: clients may not unload adapters here.
            RequestError: there is none of this name.
        """
        self._check_updates()
        check_adapter_name("name", name)
        await self._link.unload_adapter(name)

    def _check_updates(self) -> None:
        if not self._takes_adapters:
            raise Forbidden("adapters may not be loaded or unloaded over this frontend; --adapter-updates permits it")
        tenant = current_tenant()
        if tenant is not None and not tenant.rules.operator:
            raise Forbidden("adapters may be loaded and unloaded with the key of an operator only")

    @property
    def num_requests(self) -> int:
        return self._link.num_requests

    def limits(self) -> ServingLimits:
        """Limits of a request now; raises `Unavailable` while nothing can be computed."""
        return self._link.limits()

    def admit(self) -> Tenant | None:
        """Refuses what need not be looked at: called before a request is read, where its API allows that.

        Returns:
            Whose the call is; None: tenants are not told apart.

        Raises:
            Unavailable: nothing can be computed now, or this frontend is shutting down.
            Unauthenticated, Forbidden: the caller's API key does not hold any more.
            LimitReached: the caller's API key does not allow more for now.
            Overloaded: too many requests are open, here or at the scheduler.
        """
        if reason := self.unavailable_reason:
            raise Unavailable(reason)
        tenant = current_tenant()
        if tenant is None:
            self._link.check_room()
        else:
            tenant.check()
            self._link.check_room(tenant.name, tenant.rules.weight)
        return tenant

    def tell_refusal(self, error: RequestError) -> None:
        """Tells the observers that an API answers with an error."""
        for observer in self._observers:
            observer.refuse(error)

    def drain(self) -> None:
        """Takes no more requests; those that run go on."""
        self._draining.set()

    async def draining(self) -> None:
        """Returns when no more requests are taken."""
        await self._draining.wait()

    async def submit(
        self,
        prompt: str | Sequence[int],
        params: SamplingParams,
        *,
        field: str,
        request_id: str = "",
        options: RequestOptions = DEFAULT_OPTIONS,
        whole: bool = False,
    ) -> OpenRequest:
        """Checks a request and opens it, as `prepare` and `open` do."""
        return self.open(await self.prepare(prompt, params, field=field, options=options), request_id, whole=whole)

    async def prepare(
        self,
        prompt: str | Sequence[int],
        params: SamplingParams,
        *,
        field: str,
        options: RequestOptions = DEFAULT_OPTIONS,
        fills_context: bool = False,
    ) -> PreparedRequest:
        """Tokenizes and checks a request.

        Args:
            field: name of the prompt in the API at hand, for refusals.
            fills_context: without `max_tokens` the answer may be as long as context and pool allow.

        Raises:
            RequestError: it is refused.
        """
        arrived = time.monotonic()
        tenant = self.admit()
        validate_options(options)
        find_adapter("adapter", options.adapter, self._link.adapters)
        if tenant is not None:
            tenant.check_adapter(options.adapter)
            options = tenant.own(options)
        limits, call = self._link.limits(), current_call()
        with call.part("tokenize"):
            token_ids = await self._token_ids(prompt, field, options.prompt, limits)
        params = fill_defaults(params, len(token_ids), limits, fills_context=fills_context)
        if call.span is not None:
            call.span.ask(self.model, params)
        validate(token_ids, params, limits, field=field)
        return PreparedRequest(token_ids, resolve_bad_words(params, self.tokenizer), options, arrived, tenant)

    def open(self, request: PreparedRequest, request_id: str = "", *, whole: bool = False) -> OpenRequest:
        """Opens a request; `follow` it, and `close` it when its caller has the end.

        Args:
            request_id: the client's name for it; "": one is made.
            whole: its pieces will be joined, so that one will do.

        Raises:
            RequestError: it is refused.
        """
        (opened,) = self.open_all([(request, request_id)], whole=whole)
        return opened

    def open_all(self, requests: Sequence[tuple[PreparedRequest, str]], *, whole: bool = False) -> list[OpenRequest]:
        """Opens requests with their names as `open` does: all, or none."""

        def open_one(request: PreparedRequest, name: str) -> OpenRequest:
            interval = WHOLE_INTERVAL if whole and not request.params.stop else self._stream_interval
            opened = self._link.submit(name, request.prompt, request.params, request.options, interval, request.arrived)
            if whole:
                opened.expect_end()
            return opened

        found = self._begin_all(requests, open_one)
        if (span := current_call().span) is not None:
            span.open(whole)
        return found

    def hold(self, request: PreparedRequest, request_id: str = "") -> OpenRequest:
        """Opens a request, as `open` does, that is not computed itself: those of `open_step` are, on its behalf."""

        def hold_one(request: PreparedRequest, name: str) -> OpenRequest:
            return self._link.hold(name, request.prompt, request.params, request.options, request.arrived)

        (held,) = self._begin_all([(request, request_id)], hold_one)
        return held

    def _begin_all(
        self,
        requests: Sequence[tuple[PreparedRequest, str]],
        begin: Callable[[PreparedRequest, str], OpenRequest],
    ) -> list[OpenRequest]:
        """Begins all, or none, at the expense of their tenant, if they have one."""
        if reason := self.unavailable_reason:
            raise Unavailable(reason)
        tenant = requests[0][0].tenant
        if tenant is not None:
            tenant.begin([len(request.prompt) for request, _ in requests])
        opened: list[OpenRequest] = []
        try:
            for request, request_id in requests:
                opened.append(one := begin(request, _name(request_id)))
                if tenant is not None:
                    self._tenants[one] = tenant
        except BaseException:
            for one in opened:
                self.close(one)
            if tenant is not None:
                tenant.end(len(requests) - len(opened))
            raise
        return opened

    def open_step(
        self, held: OpenRequest, prompt: Int32Array, params: SamplingParams, options: RequestOptions
    ) -> OpenRequest:
        """Opens a request for a held one, whose end is awaited; nothing refuses it. `withdraw` it in the end."""
        if (tenant := self._tenants.get(held)) is not None:
            tenant.spend_tokens(params.max_tokens or 0)
        opened = self._link.submit_step(held, prompt, params, options)
        opened.expect_end()
        return opened

    def withdraw(self, request: OpenRequest) -> None:
        """Nothing more is computed for a request; harmless if repeated."""
        self._link.withdraw(request)

    def open_choices(
        self, requests: Sequence[tuple[PreparedRequest, str]], num_choices: int, *, whole: bool = False
    ) -> list[OpenRequest]:
        """Opens a request for each answer to each prompt, or none; each has the seed behind that of the one before.

        A prompt is computed once: the scheduler starts the others when its blocks are there to share.

        Args:
            requests: with the name of each one's first answer; the others' end with their numbers.

        Raises:
            RequestError: one is refused.
        """
        if not 1 <= num_choices <= MAX_CHOICES:
            raise InvalidRequest("n", num_choices, f"must be 1 to {MAX_CHOICES}")
        if (span := current_call().span) is not None:
            span.choose(num_choices)
        choices = [
            (request.choice(index), f"{name}-{index}" if name and index else name)
            for request, name in requests
            for index in range(num_choices)
        ]
        return self.open_all(choices, whole=whole)

    async def follow(self, request: OpenRequest) -> AsyncGenerator[Completion, None]:
        """Its answer in pieces; however the iteration ends, nothing more is computed. `close` it then.

        Raises:
            RequestError: it failed.
        """
        call = current_call()
        span = call.span
        try:
            async for piece in Pieces(request, self.tokenizer).follow():
                if span is not None:
                    span.take(piece)
                yield piece
        except RequestError as error:
            call.fail(error)
            raise
        finally:
            self._link.withdraw(request)

    async def embedding(self, request: OpenRequest, normalize: bool) -> Embedding:
        """The embedding of a request of `embedding_params`, once it has come. `close` it then.

        Args:
            normalize: divide it by its Euclidean norm.

        Raises:
            RequestError: it failed.
        """
        async with aclosing(self.follow(request)) as pieces:
            return embedding_of(join([piece async for piece in pieces]), normalize)

    def close(self, request: OpenRequest) -> None:
        """Its call has ended, by itself or not: until then it counts as open; harmless if repeated."""
        self._link.close(request)
        if (tenant := self._tenants.pop(request, None)) is not None:
            tenant.spend_tokens(len(request.generated))
            tenant.end()

    def abort(self, request_id: str) -> bool:
        """Ends a running request of the caller's for those who follow it; False if it has none of this id."""
        tenant = current_tenant()
        request = self._link.find(request_id, "" if tenant is None else tenant.name)
        if request is not None:
            self._link.abort(request)
        return request is not None

    async def encode(self, text: str, field: str, *, add_special_tokens: bool = True) -> list[int]:
        """Token ids of a text.

        Raises:
            InvalidRequest: it has more than `MAX_TOKENIZE_BYTES`, or is no Unicode.
            Overloaded: too many texts wait to be tokenized.
        """
        size = len(text) if len(text) > MAX_TOKENIZE_BYTES else len(utf8(text, field))
        if size > MAX_TOKENIZE_BYTES:
            raise InvalidRequest(field, size, f"must be at most {MAX_TOKENIZE_BYTES} bytes of UTF-8")
        token_ids = await self._encoder.encode(text, field=field, add_special_tokens=add_special_tokens)
        found: list[int] = token_ids.tolist()
        return found

    async def decode(
        self, token_ids: Sequence[int] | Int32Array, field: str, *, skip_special_tokens: bool = True
    ) -> str:
        """The text of token ids; others have their turn meanwhile.

        Raises:
            InvalidRequest: there are more than `MAX_DETOKENIZE_IDS`, or one is not in the vocabulary; named as the
                entry of `field`.
        """
        if len(token_ids) > MAX_DETOKENIZE_IDS:
            raise InvalidRequest(field, len(token_ids), f"must be at most {MAX_DETOKENIZE_IDS} token ids")
        ids = token_array(token_ids, self._link.limits().vocab_size, field)
        detokenizer, parts = Detokenizer(self.tokenizer, skip_special_tokens), []
        for at in range(0, len(ids), _IDS_AT_ONCE):
            parts.append(detokenizer.push(ids[at : at + _IDS_AT_ONCE]))
            await asyncio.sleep(0)
        return "".join([*parts, detokenizer.flush()])

    async def _token_ids(
        self, prompt: str | Sequence[int], field: str, how: PromptParams, limits: ServingLimits
    ) -> Int32Array:
        kept = how.truncate_prompt_tokens
        max_model_len = limits.max_model_len if kept is None else None
        if isinstance(prompt, str):
            token_ids = await self._encoder.encode(
                prompt, field=field, max_model_len=max_model_len, add_special_tokens=how.add_special_tokens
            )
        else:
            if max_model_len is not None:
                check_length(field, len(prompt), max_model_len)
            token_ids = token_array(prompt, limits.vocab_size, field)
        return token_ids if kept is None else token_ids[-kept:]


def _name(request_id: str) -> str:
    if len(request_id.encode()) > MAX_REQUEST_ID_BYTES:
        raise InvalidRequest("request_id", request_id, f"must be at most {MAX_REQUEST_ID_BYTES} bytes")
    return request_id or uuid.uuid4().hex
