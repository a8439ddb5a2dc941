"""Greedy tokens through every service are those of transformers, with prompts in chunks and a pool too small."""

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from quire.clients.async_client import AsyncClient
from quire.engine.api.completion import Completion, FinishReason
from quire.engine.api.sampling import SamplingParams
from quire.engine.demo_model import DEMO_MODEL
from quire.engine.text.tokenizer import Tokenizer
from support.models import FAMILIES, MORE_FAMILIES, VOCAB_SIZE, load_reference, reference_greedy, write_model
from support.prompts import random_prompts
from support.stacks import RunningStack, launch

NUM_PROMPTS = 64
LONGEST = 900
MAX_TOKENS = 16
BLOCK_SIZE = 16
NUM_BLOCKS = 100
MAX_NUM_TOKENS = 200


@dataclass(frozen=True, slots=True)
class Case:
    """A model that is being served, and what to ask of it."""

    folder: Path
    stack: RunningStack
    prompts: list[list[int]]


def demo_prompts(folder: Path) -> list[list[int]]:
    """Pieces of this project's own text, as long as random prompts would be."""
    sources = sorted(Path(__file__).parents[1].rglob("*.py"))
    tokens = Tokenizer.load(folder).encode("\n".join(path.read_text() for path in sources)).tolist()
    lengths = map(len, random_prompts(NUM_PROMPTS, LONGEST, VOCAB_SIZE))
    return [tokens[97 * i : 97 * i + length] for i, length in enumerate(lengths)]


# Mistral's layers are Llama's.
RARE = ("mistral", *MORE_FAMILIES)
MODELS = (
    "demo",
    *(pytest.param(name, marks=pytest.mark.long if name in RARE else ()) for name in (*FAMILIES, *MORE_FAMILIES)),
)


@pytest.fixture(scope="module", params=MODELS)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Case]:
    if request.param == "demo":
        folder, prompts = DEMO_MODEL, demo_prompts(DEMO_MODEL)
    else:
        folder = write_model(tmp_path_factory.mktemp(request.param), request.param)
        prompts = random_prompts(NUM_PROMPTS, LONGEST, VOCAB_SIZE)
    with launch(
        folder,
        executor={"num_blocks": NUM_BLOCKS, "block_size": BLOCK_SIZE},
        scheduler={"max_num_tokens": MAX_NUM_TOKENS},
    ) as running:
        yield Case(folder, running, prompts)


async def test_greedy_tokens_are_those_of_transformers(case: Case) -> None:
    lengths = [len(prompt) for prompt in case.prompts]
    assert max(lengths) == LONGEST > MAX_NUM_TOKENS
    assert sum(lengths) > NUM_BLOCKS * BLOCK_SIZE
    ignore = [index % 2 == 0 for index in range(NUM_PROMPTS)]

    async def ask(client: AsyncClient, prompt: list[int], ignore_eos: bool) -> tuple[list[int], Completion]:
        params = SamplingParams(temperature=0, max_tokens=MAX_TOKENS, ignore_eos=ignore_eos)
        pieces = [piece async for piece in client.generate_stream(prompt, params)]
        return [token for piece in pieces for token in piece.token_ids], pieces[-1]

    async with AsyncClient(case.stack.frontend) as client:
        answers = await asyncio.gather(*map(ask, [client] * NUM_PROMPTS, case.prompts, ignore))

    model = load_reference(case.folder)
    eos_token_ids = model.generation_config.eos_token_id
    eos_token_ids = [eos_token_ids] if isinstance(eos_token_ids, int) else eos_token_ids
    for prompt, ignore_eos, (tokens, last) in zip(case.prompts, ignore, answers, strict=True):
        wanted = reference_greedy(model, prompt, MAX_TOKENS, ignore_eos=ignore_eos)
        assert tokens == wanted, len(prompt)
        if not ignore_eos and tokens[-1] in eos_token_ids:
            assert (last.finish_reason, last.matched_stop) == (FinishReason.STOP, tokens[-1])
        else:
            assert (last.finish_reason, last.matched_stop) == (FinishReason.LENGTH, None)
    if case.folder != DEMO_MODEL:
        # The random models meet an end token often, so that both ways of taking it were seen.
        assert {last.finish_reason for _, last in answers} == {FinishReason.STOP, FinishReason.LENGTH}
        assert any(set(tokens[:-1]) & set(eos_token_ids) for tokens, _ in answers)
    await case.stack.assert_settled()
