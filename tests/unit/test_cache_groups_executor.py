"""Scheduler and executor of a model with windows: the tokens of transformers, from blocks that hold what they must.

Blocks that nobody holds are overwritten before every step: whatever was read of them would show.
"""

from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import Gemma3ForCausalLM, Gemma3TextConfig, MistralConfig, MistralForCausalLM

from quire.engine.api.sampling import SamplingParams
from quire.engine.config import ExecutorConfig, SchedulerConfig
from quire.engine.executor import Executor
from quire.engine.request import Request
from quire.engine.resources.ledger.audit import audit
from quire.engine.resources.ledger.pool_state import PoolState
from quire.engine.scheduling.capacity.guaranteed_no_evict import GuaranteedNoEvict
from quire.engine.scheduling.plugins import NO_PLUGINS, Plugins
from quire.engine.scheduling.scheduler import Scheduler
from quire.engine.sequence import Sequence as Running
from quire.engine.step import StepResult

VOCAB, BLOCK, WINDOW, LONGEST = 97, 16, 64, 1024
SIZES: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 32,
    "max_position_embeddings": LONGEST,
    "initializer_range": 0.3,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
    "sliding_window": WINDOW,
}
MODELS: dict[str, Callable[[], Any]] = {
    # Five layers with a window to one that sees everything.
    "gemma3": lambda: Gemma3ForCausalLM(
        Gemma3TextConfig(**SIZES, num_hidden_layers=6, query_pre_attn_scalar=13, sliding_window_pattern=6)
    ),
    # A window in every layer: one group, of which no sequence holds all.
    "mistral": lambda: MistralForCausalLM(MistralConfig(**SIZES, num_hidden_layers=2)),
}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Any]]:
    found = {}
    for name, make in MODELS.items():
        torch.manual_seed(0)
        model = make().eval()
        folder = tmp_path_factory.mktemp(name)
        model.save_pretrained(folder)
        found[name] = folder, model
    return found


def new_executor(folder: Path, num_blocks: int) -> Executor:
    places: dict[str, Any] = {"device": "cpu", "dtype": "float32", "max_batch_size": 32}
    return Executor(ExecutorConfig(model=str(folder), num_blocks=num_blocks, block_size=BLOCK, **places))


def prompt(length: int, seed: int) -> list[int]:
    return [int(token) for token in np.random.default_rng(seed).integers(0, VOCAB, length)]


def reference(model: Any, prompts: Sequence[list[int]], count: int) -> list[list[int]]:
    """Greedy continuations of prompts of one length."""
    ids = torch.tensor(prompts)
    out = model.generate(
        ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=count, pad_token_id=0
    )
    found: list[list[int]] = out[:, ids.shape[1] :].tolist()
    return found


class Loop:
    """Two steps in flight; between any two, all that nobody holds is overwritten."""

    def __init__(self, executor: Executor, plugins: Plugins = NO_PLUGINS, **settings: Any) -> None:
        self.executor = executor
        self.state = PoolState(executor.info.num_blocks)
        self.scheduler = Scheduler(SchedulerConfig(**settings), executor.info, self.state, plugins=plugins)
        self.most = 0

    def serve(self, prompts: Sequence[list[int]], count: int) -> list[list[int]]:
        """Greedy continuations."""
        params = SamplingParams(seed=0, max_tokens=count, temperature=0, ignore_eos=True)
        empty = np.empty(0, np.int32)
        sequences = [
            Running(Request(str(i), 0, i, np.array(each, np.int32), empty, params), ())
            for i, each in enumerate(prompts)
        ]
        for sequence in sequences:
            self.scheduler.add(sequence)
        results: deque[StepResult] = deque()
        while True:
            plan = self.scheduler.schedule()
            self.scheduler.take_transaction()
            if plan is not None:
                self.most = max(self.most, self.scheduler.num_running)
                self._overwrite()
                results.append(self.executor.execute(plan))
            if len(results) == 2 or (results and plan is None):
                self.scheduler.update(results.popleft())
            elif not results:
                break
        assert all(sequence.is_finished for sequence in sequences)
        assert not self.state.refs
        assert audit(self.state, len(self.executor.info.cache_groups)) == []
        return [list(sequence.tokens[len(each) :]) for sequence, each in zip(sequences, prompts, strict=True)]

    def _overwrite(self) -> None:
        """With what would change every result; not with infinities, as whole blocks are read where a part is held."""
        known = self.state.refs.keys() | self.state.hashes.keys()
        free = torch.tensor([block for block in range(self.state.num_blocks) if block not in known], dtype=torch.int64)
        for kv in self.executor._engine._kv:
            kv[:, free] = 1e3


def test_a_model_with_windows_carries_four_times_the_sequences(models: dict[str, tuple[Path, Any]]) -> None:
    """Gemma 3's shape on a smaller scale: 16 windows long, five layers that slide to one that does not."""
    folder, model = models["gemma3"]
    num_today = 1
    of_all_layers = num_today * LONGEST // BLOCK
    loop = Loop(new_executor(folder, 6 * of_all_layers), max_num_tokens=512)
    assert loop.executor.info.cache_windows == (0, *[WINDOW] * 5)
    layer_token = 2 * SIZES["num_key_value_heads"] * SIZES["head_dim"] * 4
    spare = layer_token * BLOCK
    assert loop.executor.kv_bytes == of_all_layers * 6 * layer_token * BLOCK + spare, "the memory of today, and a spare"
    count = 40
    prompts = [prompt(LONGEST - count, seed) for seed in range(4 * num_today)]
    assert loop.serve(prompts, count) == reference(model, prompts, count)
    assert loop.most >= 4 * num_today


class PausesOften(GuaranteedNoEvict):
    """Every 20 steps it pauses what started last."""

    num_steps = 0

    def victims(self, running: Callable[[], list[Running]], num_retiring: int) -> list[Running]:
        self.num_steps += 1
        return running()[-1:] if self.num_steps % 20 == 0 else []


@pytest.mark.parametrize("name", MODELS)
def test_conversations_reuse_what_windows_left(name: str, models: dict[str, tuple[Path, Any]]) -> None:
    """In chunks, in mixed batches, behind cached prefixes, and after pauses."""
    folder, model = models[name]
    # As many blocks as most of the conversations take at their ends.
    num_blocks = {"gemma3": 150, "mistral": 20}[name]
    plugins = Plugins(capacity_scheduler=PausesOften)
    loop = Loop(new_executor(folder, num_blocks), plugins, max_num_tokens=70)
    talks = [prompt(100, seed) for seed in range(3)]
    for turn in range(2):
        answers = loop.serve(talks, 50)
        assert answers == reference(model, talks, 50)
        talks = [[*talk, *answer, *prompt(9, turn)] for talk, answer in zip(talks, answers, strict=True)]
    statistics = loop.scheduler.statistics
    assert statistics.num_reused_tokens > 0
    assert statistics.num_evicted > 0
    assert statistics.num_pauses > 0
