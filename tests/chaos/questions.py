"""What is asked: every way of sampling, of every length, in every way that a client can ask."""

import math
import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum, auto

from quire.clients.async_client import AsyncClient
from quire.engine.api.completion import Completion, join
from quire.engine.api.logprobs import TokenLogprobs
from quire.engine.api.sampling import SamplingParams
from quire.engine.api.structured_output import StructuredOutput

VOCAB_SIZE = 2048
GREEDY = SamplingParams(temperature=0, max_tokens=200, ignore_eos=True)
SEEDED = replace(GREEDY, temperature=0.8, top_p=0.95, seed=5)
PENALIZED = replace(GREEDY, presence_penalty=0.3, frequency_penalty=0.2, repetition_penalty=1.1)
STRUCTURED = replace(SEEDED, structured_output=StructuredOutput(regex=r"([a-z]{1,9}[ ,.\n])*"))
KINDS = (GREEDY, SEEDED, PENALIZED, replace(GREEDY, logprobs=2), STRUCTURED, replace(SEEDED, top_k=20, min_p=0.02))
LENGTHS = (2, 20, 200, 400)
# Log-probabilities are sums over another split of a prompt into steps, in float32.
LOGPROB_TOLERANCE = 1e-3


class Way(Enum):
    """How an answer is fetched."""

    STREAM = auto()
    WHOLE = auto()
    CHOICES = auto()


@dataclass(frozen=True)
class Question:
    """A request that is sent again and again."""

    prompt: tuple[int, ...]
    params: SamplingParams
    way: Way

    async def ask(self, client: AsyncClient, take: Callable[[Completion], None]) -> list[Completion]:
        """The answers; `take` is called with each piece of a stream as it comes."""
        match self.way:
            case Way.WHOLE:
                return [await client.generate(list(self.prompt), self.params)]
            case Way.CHOICES:
                return await client.generate_choices(list(self.prompt), 3, self.params)
        pieces = []
        async for piece in client.generate_stream(list(self.prompt), self.params):
            pieces.append(piece)
            take(piece)
        return [join(pieces)]

    def differs(self, answers: list[Completion], expected: list[Completion]) -> str:
        """What is different of whole answers; "": nothing."""
        if len(answers) != len(expected):
            return f"{len(answers)} answers, {len(expected)} expected"
        return next(filter(None, map(_difference, answers, expected)), "")

    def begins_otherwise(self, pieces: list[Completion], expected: list[Completion]) -> str:
        """What is different of an answer that was cut off; "": nothing."""
        tokens = [token for piece in pieces for token in piece.token_ids]
        return _first_difference(tokens, list(expected[0].token_ids[: len(tokens)]))


def make_questions(count: int, seed: int) -> list[Question]:
    """Every kind and way in turn; a third of the prompts begin with one of two long prefixes."""
    draw = random.Random(seed)
    prefixes = [_ids(draw, length) for length in (180, 90)]
    questions = []
    for index in range(count):
        prompt = _ids(draw, round(150 ** draw.random()))
        if index % 3 == 0:
            prompt = (*prefixes[index % 2], *prompt)
        params = replace(KINDS[index % len(KINDS)], max_tokens=LENGTHS[index % 7 % len(LENGTHS)])
        way = Way.STREAM if index % 4 else (Way.WHOLE, Way.CHOICES)[index // 4 % 2]
        questions.append(Question(prompt, params, way))
    return questions


def _ids(draw: random.Random, length: int) -> tuple[int, ...]:
    return tuple(draw.randrange(VOCAB_SIZE) for _ in range(length))


def _difference(answer: Completion, expected: Completion) -> str:
    if found := _first_difference(list(answer.token_ids), list(expected.token_ids)):
        return found
    if (answer.text, answer.finish_reason) != (expected.text, expected.finish_reason):
        return f"{answer.finish_reason} {answer.text!r}, expected {expected.finish_reason} {expected.text!r}"
    if len(answer.logprobs) != len(expected.logprobs):
        return f"{len(answer.logprobs)} log-probabilities, expected {len(expected.logprobs)}"
    return next(filter(None, map(_logprob_difference, answer.logprobs, expected.logprobs)), "")


def _first_difference(tokens: list[int], expected: list[int]) -> str:
    for place, (token, other) in enumerate(zip(tokens, expected, strict=False)):
        if token != other:
            return f"token {place} is {token}, expected {other}"
    return "" if len(tokens) == len(expected) else f"{len(tokens)} tokens, expected {len(expected)}"


def _logprob_difference(found: TokenLogprobs, expected: TokenLogprobs) -> str:
    if math.isclose(found.logprob, expected.logprob, abs_tol=LOGPROB_TOLERANCE):
        return ""
    return f"log-probability {found.logprob}, expected {expected.logprob}"
