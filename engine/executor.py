"""The `Executor`: a model behind two calls, `reset` and `launch`. Knows neither gRPC nor text nor its peers."""

import gc
import hashlib
import logging
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from types import MappingProxyType
from typing import Final

import torch
from torch import Tensor

from quire.engine.api.adapter import Adapter
from quire.engine.api.errors import InvalidRequest, StartupError
from quire.engine.arrays import Int32Array
from quire.engine.config import ExecutorConfig
from quire.engine.grammar.store import FIELD, GrammarStore
from quire.engine.grammar.vocabulary import Vocabulary
from quire.engine.model.batch import Batch
from quire.engine.model.decoder import Decoder
from quire.engine.model.features.logprobs import RowLogprobs
from quire.engine.model.features.pooling import PooledVectors
from quire.engine.model.features.processors import SlotShape, logits_processors
from quire.engine.model.features.prompt_logprobs import PromptScores, score
from quire.engine.model.features.user_processor import UserProcessor, load_processors
from quire.engine.model.model_engine import ModelEngine
from quire.engine.model.placement import Placement, place
from quire.engine.model.slots import Slots
from quire.engine.model.source import resolve_model
from quire.engine.model.staging import download
from quire.engine.model.step_timer import CudaTimer, HostTimer, StepTimer
from quire.engine.preparation import AdapterPreparation, Preparation
from quire.engine.step import DeviceKind, ExecutorInfo, SlotFailure, StepPlan, StepResult
from quire.engine.text.fingerprint import tokenizer_fingerprint
from quire.engine.text.tokenizer import Tokenizer
from quire.engine.warmup import warmup_plans
from quire.engine.weights.checkpoint import Checkpoint, read_checkpoint

logger = logging.getLogger(__name__)

_NONE: Final[Mapping[str, UserProcessor]] = MappingProxyType({})
_NOTHING: Final = torch.empty(0, dtype=torch.int32)


@dataclass(frozen=True, slots=True, eq=False)
class PendingStep:
    """A step that was launched. Its tensors, on the host, hold what they should once `timer` is over."""

    step: int
    slots: Int32Array
    token_ids: Tensor
    logprobs: RowLogprobs | None
    scores: PromptScores | None
    pooled: PooledVectors | None
    timer: StepTimer
    failures: tuple[SlotFailure, ...] = ()

    @property
    def is_over(self) -> bool:
        """Whether `result` returns at once."""
        return self.timer.is_over

    def result(self) -> StepResult:
        """Waits for the step."""
        compute_us = self.timer.wait()
        logprobs = self.logprobs.packed() if self.logprobs is not None else None
        prompt_logprobs = self.scores.packed() if self.scores is not None else None
        return StepResult(
            self.step,
            self.slots,
            self.token_ids.numpy(),
            compute_us,
            logprobs,
            prompt_logprobs,
            self.pooled.packed() if self.pooled is not None else None,
            self.failures,
        )


class Executor:
    """One model on one device, with its KV pool and slots. Used by one thread at a time, but for `prepare`.

    Attributes:
        info: who it is and what it can hold.
        dtype: of weights and activations, such as "bfloat16".
    """

    def __init__(self, config: ExecutorConfig, processors: Mapping[str, UserProcessor] = _NONE) -> None:
        """
        Args:
            processors: further logits processors, beside those that the settings name.

        Raises:
            StartupError: the model or the settings will not do; the message says why.
        """
        checkpoint = read_checkpoint(resolve_model(config.model), config.max_model_len, config.model_impl)
        placement = place(config, checkpoint)
        logger.info("computing in %s, KV cache in %s", placement.dtype, placement.kv_dtype)
        users = {**load_processors(config.logits_processors), **processors}
        self._engine = _engine(config, checkpoint, placement, len(users))
        self.dtype = str(placement.dtype).removeprefix("torch.")
        self._kernels = placement.kernels
        self._decoder = Decoder(placement.kernels)
        self._grammars = GrammarStore(partial(_vocabulary, checkpoint))
        shape = SlotShape(
            num_slots=config.max_batch_size,
            max_model_len=self._engine.max_model_len,
            vocab_size=checkpoint.config.vocab_size,
            eos_token_ids=checkpoint.eos_token_ids,
            device=self._engine.device,
        )
        self._slots = Slots(
            num_slots=shape.num_slots,
            max_model_len=shape.max_model_len,
            block_size=config.block_size,
            num_blocks=self._engine.num_blocks,
            vocab_size=shape.vocab_size,
            device=shape.device,
            processors=logits_processors(shape, placement.kernels, self._grammars, users),
            groups=self._engine.layout.groups,
            adapters=self._engine.adapters,
        )
        self.info = ExecutorInfo(
            incarnation=uuid.uuid4().hex,
            fingerprint=_fingerprint(config, checkpoint, placement),
            vocab_size=checkpoint.config.vocab_size,
            max_model_len=self._engine.max_model_len,
            num_blocks=self._engine.num_blocks,
            block_size=config.block_size,
            max_batch_size=config.max_batch_size,
            eos_token_ids=checkpoint.eos_token_ids,
            device=DeviceKind.GPU if self._engine.device.type == "cuda" else DeviceKind.CPU,
            tokenizer_fingerprint=tokenizer_fingerprint(checkpoint.folder),
            logits_processors=tuple(sorted(users)),
            cache_windows=self._engine.layout.windows,
            num_adapters=self._engine.adapters.num_places,
        )
        if self._engine.device.type == "cuda":
            # What the first request that wants it would have compiled, all others would wait for. In the last slot, so
            # that the counts of penalised ones have the size that the pool leaves room for.
            for plan in warmup_plans(config.max_batch_size - 1, len(self.info.cache_groups)):
                self.execute(plan)
            self.reset()
            # The next full collection, of up to 0.2 s, is due when a quarter more objects are there than at the last
            # one: not among the first steps.
            gc.collect()

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self._engine.device

    @property
    def kv_bytes(self) -> int:
        """Memory that the KV pool takes."""
        return self._engine.kv_bytes

    def device_memory(self) -> dict[str, int]:
        """Bytes of a GPU: "total" and "free" of all, "allocated" and "reserved" by this process; empty for a CPU."""
        if self.device.type != "cuda":
            return {}
        free, total = torch.cuda.mem_get_info(self.device)
        allocated, reserved = torch.cuda.memory_allocated(self.device), torch.cuda.memory_reserved(self.device)
        return {"total": total, "free": free, "allocated": allocated, "reserved": reserved}

    def prepare(self, preparation: Preparation) -> None:
        """Make ready what sequences will ask for; on any thread, beside the steps.

        Raises:
            InvalidRequest: no sequence can have it; the message says why.
            Unavailable: it cannot be had now.
        """
        if isinstance(preparation, AdapterPreparation):
            self._engine.adapters.load(preparation.adapter, preparation.place)
        else:
            self._grammars.get(preparation.structure, preparation.is_tried)

    def examine(self, name: str, path: str) -> Adapter:
        """The adapter of a folder, which could be loaded; on any thread, beside the steps.

        Raises:
            InvalidRequest: it could not; the message says why.
        """
        return self._engine.adapters.examine(name, path)

    def reset(self) -> None:
        """Empty every slot, once what was launched is over; blocks keep what they hold."""
        if self._engine.device.type == "cuda":
            # Nobody may ask for those results any more, whose arrays are still to be read from pinned memory.
            torch.cuda.synchronize(self._engine.device)
        self._slots.reset()

    @torch.inference_mode()
    def launch(self, plan: StepPlan) -> PendingStep:
        """Hand one step to the device; a GPU computes it behind those launched before.

        Raises:
            InvalidRequest: the plan contradicts what the slots hold; only `reset` makes them usable again.
        """
        timer = CudaTimer() if self._engine.device.type == "cuda" else HostTimer()
        self._engine.copy_blocks(plan.copies)
        batch = self._slots.apply(plan)
        if not len(batch.slots):
            timer.stop()
            return PendingStep(plan.step, batch.sampling_slots, _NOTHING, None, None, None, timer)
        logits, scores, pooled = self._forward(batch)
        token_ids, logprobs = self._decode(logits, batch)
        timer.stop()
        failures = (failure for processor, rows in batch.processors for failure in processor.failures(rows))
        return PendingStep(plan.step, batch.sampling_slots, token_ids, logprobs, scores, pooled, timer, tuple(failures))

    def execute(self, plan: StepPlan) -> StepResult:
        """Compute one step and wait for its tokens; raises what `launch` does."""
        return self.launch(plan).result()

    def _forward(self, batch: Batch) -> tuple[Tensor, PromptScores | None, PooledVectors | None]:
        """Logits of the rows that sample; what is wanted of prompts, on the host once the step is over."""
        if batch.states is None:
            return self._engine.forward(batch), None, None
        hidden, scores, pooled = self._engine.hidden(batch, batch.states.states), None, None
        if batch.scored is not None:
            scores = score(hidden, batch.scored, self._engine.logits, self._kernels)
            values, top_ids, ranks = download(scores.values, scores.top_ids, scores.ranks)
            scores = replace(scores, values=values, top_ids=top_ids, ranks=ranks)
        if batch.pooled is not None:
            pooled = self._slots.pool(hidden, batch.pooled)
            pooled = replace(pooled, vectors=download(pooled.vectors)[0]) if len(pooled.slots) else None
        return self._engine.logits(hidden[batch.states.sampling]), scores, pooled

    def _decode(self, logits: Tensor, batch: Batch) -> tuple[Tensor, RowLogprobs | None]:
        """The sampled tokens, int32, and their log-probabilities; on the host once the step is over."""
        token_ids, logprobs = self._decoder.decode(logits, batch)
        self._slots.advance(batch, token_ids)
        if logprobs is None:
            return download(token_ids.int())[0], None
        token_ids, values, top_ids = download(token_ids.int(), logprobs.values, logprobs.top_ids)
        return token_ids, replace(logprobs, values=values, top_ids=top_ids)


def _vocabulary(checkpoint: Checkpoint) -> Vocabulary:
    """
    Raises:
        InvalidRequest: no answer of this model can have a structure.
    """
    if not checkpoint.eos_token_ids:
        raise InvalidRequest(FIELD, "given", "must be left out: this model has no end-of-sequence token")
    try:
        tokenizer = Tokenizer.load(checkpoint.folder)
    except StartupError as error:
        raise InvalidRequest(FIELD, "given", f"must be left out: the executor has no tokenizer: {error}") from error
    return Vocabulary.of(tokenizer, checkpoint.config.vocab_size, checkpoint.eos_token_ids)


def _engine(
    config: ExecutorConfig, checkpoint: Checkpoint, placement: Placement, num_user_processors: int
) -> ModelEngine:
    try:
        return ModelEngine(config, checkpoint, placement, num_user_processors)
    except torch.OutOfMemoryError as error:
        device = placement.device
        free, total = (size / 2**30 for size in torch.cuda.mem_get_info(device))
        raise StartupError(
            f"model {checkpoint.folder}: does not fit on {device}, where {free:.2f} of {total:.2f} GiB are free; a "
            f"lower kv_memory_fraction (now {config.kv_memory_fraction}) or max_batch_size (now "
            f"{config.max_batch_size}) leaves more to weights, steps and graphs: {error}"
        ) from error


def _fingerprint(config: ExecutorConfig, checkpoint: Checkpoint, placement: Placement) -> str:
    """Fingerprint of everything that determines the content of a KV block: executors of one fleet must agree on it."""
    implementation = checkpoint.model.implementation
    parts = (checkpoint.fingerprint, placement.dtype, config.quantization, placement.kv_dtype, implementation)
    return hashlib.sha256(" ".join(map(str, parts)).encode()).hexdigest()
