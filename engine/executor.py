"""The `Executor`: a model behind two calls, `reset` and `execute`. Knows neither gRPC nor text nor its peers."""

import hashlib
import time
import uuid
from typing import Final

import numpy as np
import torch

from quire.engine.config import ExecutorConfig
from quire.engine.errors import StartupError
from quire.engine.model.batch import Batch
from quire.engine.model.checkpoint import read_checkpoint
from quire.engine.model.decoder import Decoder
from quire.engine.model.model_engine import ModelEngine
from quire.engine.model.placement import device_of, dtype_of
from quire.engine.model.slots import Slots
from quire.engine.model.source import resolve_model
from quire.engine.request import Int32Array
from quire.engine.step import ExecutorInfo, StepPlan, StepResult
from quire.kernels.registry import kernel_suite
from quire.kernels.suite import KernelSuite

# Of a step, by device: products are at full speed from there on.
_STEP_TOKENS: Final = {"cpu": 512, "cuda": 8192}


class Executor:
    """One model on one device, with its KV pool and slots. Used by one thread at a time.

    Attributes:
        info: who it is and what it can hold.
    """

    def __init__(self, config: ExecutorConfig) -> None:
        """
        Raises:
            StartupError: the model or the settings will not do; the message says why.
        """
        checkpoint = read_checkpoint(resolve_model(config.model))
        kernels = _kernels(config)
        self._engine = ModelEngine(config, checkpoint, kernels)
        self._decoder = Decoder(kernels)
        self._slots = Slots(
            num_slots=config.num_slots,
            max_model_len=self._engine.max_model_len,
            block_size=config.block_size,
            num_blocks=self._engine.num_blocks,
            vocab_size=checkpoint.config.vocab_size,
            device=self._engine.device,
        )
        self.info = ExecutorInfo(
            incarnation=uuid.uuid4().hex,
            fingerprint=_fingerprint(config, checkpoint.fingerprint),
            vocab_size=checkpoint.config.vocab_size,
            max_model_len=self._engine.max_model_len,
            num_blocks=self._engine.num_blocks,
            block_size=config.block_size,
            num_slots=config.num_slots,
            eos_token_ids=checkpoint.eos_token_ids,
            step_tokens=_STEP_TOKENS[self._engine.device.type],
        )

    def reset(self) -> None:
        """Empty every slot; blocks keep what they hold."""
        self._slots.reset()

    @torch.inference_mode()
    def execute(self, plan: StepPlan) -> StepResult:
        """Compute one step and wait for its tokens.

        Raises:
            ValueError: the plan contradicts what the slots hold; only `reset` makes them usable again.
        """
        began = time.perf_counter()
        self._engine.copy_blocks(plan.copies)
        batch = self._slots.apply(plan)
        token_ids = self._compute(batch) if len(batch.slots) else np.empty(0, np.int32)
        compute_us = round((time.perf_counter() - began) * 1e6)
        return StepResult(plan.step, batch.sampling_slots, token_ids, compute_us)

    def _compute(self, batch: Batch) -> Int32Array:
        logits = self._engine.forward(batch)
        token_ids = self._decoder.decode(logits, batch)
        self._slots.advance(batch, token_ids)
        return token_ids.to("cpu", torch.int32).numpy()


def _fingerprint(config: ExecutorConfig, weights: str) -> str:
    """Of what decides what a KV block holds: executors of one fleet must agree on it."""
    dtype = dtype_of(config, device_of(config))
    return hashlib.sha256(f"{weights} {dtype} {config.quantization}".encode()).hexdigest()


def _kernels(config: ExecutorConfig) -> KernelSuite:
    device = device_of(config)
    try:
        dtype, int8 = dtype_of(config, device), config.quantization == "int8"
        return kernel_suite(config.kernels, device, dtype, config.num_threads, int8)
    except ValueError as error:
        raise StartupError(str(error)) from error
