"""Models that only transformers computes, over paged attention: the same greedy tokens, however a sequence is cut."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    BloomConfig,
    BloomForCausalLM,
    CohereConfig,
    CohereForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    OlmoeConfig,
    OlmoeForCausalLM,
    Qwen2MoeConfig,
    Qwen2MoeForCausalLM,
    StableLmConfig,
    StableLmForCausalLM,
    Starcoder2Config,
    Starcoder2ForCausalLM,
)
from unit.test_executor_generation import SIZES, VOCAB, Driver, prompt, reference
from unit.test_quantized_checkpoints import FORMATS

from quire.engine.api.errors import StartupError
from quire.engine.config import ExecutorConfig
from quire.engine.executor import Executor
from quire.kernels.coded_weight import CODINGS
from support.checkpoints import edit_weights, start
from support.quantized import write_both

MODELS: dict[str, Callable[[], Any]] = {
    "gpt2": lambda: GPT2LMHeadModel(
        GPT2Config(n_embd=48, n_layer=3, n_head=4, vocab_size=VOCAB, n_positions=256, initializer_range=0.3)
    ),
    "gpt_neox": lambda: GPTNeoXForCausalLM(GPTNeoXConfig(**SIZES)),
    "starcoder2": lambda: Starcoder2ForCausalLM(Starcoder2Config(**SIZES, sliding_window=9)),
    "cohere": lambda: CohereForCausalLM(CohereConfig(**SIZES)),
    "stablelm": lambda: StableLmForCausalLM(StableLmConfig(**SIZES, partial_rotary_factor=0.5)),
    "qwen2_moe": lambda: Qwen2MoeForCausalLM(
        Qwen2MoeConfig(
            **SIZES, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=48, shared_expert_intermediate_size=48
        )
    ),
    "olmoe": lambda: OlmoeForCausalLM(OlmoeConfig(**SIZES, num_experts=4, num_experts_per_tok=2)),
}


def write(model: Any, folder: Path) -> Any:
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn_like(parameter) * 0.2)
    model.eval().save_pretrained(folder)
    return model


@pytest.mark.parametrize("name", MODELS)
def test_greedy_tokens_equal_those_of_transformers(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = write(MODELS[name](), tmp_path)
    driver = Driver(start(tmp_path, num_blocks=200, block_size=4, max_batch_size=8, dtype="float32"))
    first, second = prompt(23, 1), prompt(30, 2)
    driver.start(0, first)
    driver.run({0: 10})
    driver.start(5, second)
    driver.run({0: 13, 5: 4})
    driver.run({5: 26}, generation=[0])
    driver.generate([0, 5], 6)
    # Behind what another one has computed.
    known = driver.tokens[5][:33]
    driver.start(6, known, shared=driver.tables[5][:7])
    driver.run({6: 5}, generation=[0])
    driver.generate([6, 0], 4)
    for slot, begin in ((0, first), (5, second), (6, known)):
        made = driver.tokens[slot]
        assert made == reference(model, begin, len(made) - len(begin)), f"slot {slot}"


def test_a_family_of_ours_through_transformers_is_another_pool_of_the_same_tokens(tmp_path: Path) -> None:
    torch.manual_seed(0)
    write(LlamaForCausalLM(LlamaConfig(**SIZES)), tmp_path)
    tokens, fingerprints = [], set()
    for implementation in ("auto", "quire", "transformers"):
        settings: Any = {"num_blocks": 200, "block_size": 4, "max_batch_size": 8, "dtype": "float32"}
        config = ExecutorConfig(model=str(tmp_path), device="cpu", model_impl=implementation, **settings)
        driver = Driver(Executor(config))
        driver.start(0, prompt(20, 1))
        driver.run({0: 20})
        driver.generate([0], 8)
        tokens.append(driver.tokens[0])
        fingerprints.add(driver.executor.info.fingerprint)
    assert tokens[0] == tokens[1] == tokens[2]
    assert len(fingerprints) == 2


@pytest.mark.parametrize("name", ["int4 packed with zeros", "int8, activations too", "fp8 of rows", "awq", "gptq"])
def test_quantized_checkpoints_compute_as_plain_ones(name: str, tmp_path: Path) -> None:
    tokens = []
    for folder in write_both(tmp_path, *FORMATS[name], vocab_size=VOCAB):
        driver = Driver(
            start(folder, model_impl="transformers", num_blocks=200, block_size=4, max_batch_size=1, dtype="float32")
        )
        driver.start(0, prompt(20, 1))
        driver.run({0: 20})
        driver.generate([0], 8)
        tokens.append(driver.tokens[0])
    assert tokens[0] == tokens[1]


def test_a_quantized_layer_that_the_library_would_compute_is_refused(tmp_path: Path) -> None:
    folder, _ = write_both(tmp_path, *FORMATS["int8, activations too"], vocab_size=VOCAB)
    name = "model.layers.0.mlp.up_proj.weight_scale"
    edit_weights(folder, lambda tensors: tensors.update({f"{name}s": tensors.pop(name)}))
    with pytest.raises(StartupError, match=r"model\.layers\.0\.mlp\.up_proj\.weight has type I8"):
        start(folder, model_impl="transformers", dtype="float32")


@pytest.mark.parametrize("coding", ["int8", "int4"])
@pytest.mark.parametrize("name", ["stablelm", "gpt_neox", "qwen2_moe"])
def test_linear_layers_are_brought_into_codes(name: str, coding: str, tmp_path: Path) -> None:
    """But those that choose experts, or weigh them."""
    torch.manual_seed(0)
    model = write(MODELS[name](), tmp_path)
    for at, module in model.base_model.named_modules():
        if isinstance(module, torch.nn.Linear) and not at.endswith("gate"):
            module.weight.data = CODINGS[coding](module.weight.data).widened()
    driver = Driver(
        start(tmp_path, quantization=coding, num_blocks=200, block_size=4, max_batch_size=1, dtype="float32")
    )
    driver.start(0, prompt(20, 1))
    driver.run({0: 20})
    driver.generate([0], 8)
    assert driver.tokens[0] == reference(model, prompt(20, 1), 9)


@pytest.mark.parametrize(
    ("model", "complaint"),
    [
        (lambda: MambaForCausalLM(MambaConfig(hidden_size=32, num_hidden_layers=1, vocab_size=40)), "mamba"),
        (lambda: BloomForCausalLM(BloomConfig(hidden_size=32, n_layer=1, n_head=2, vocab_size=40)), "bloom"),
    ],
)  # fmt: skip
def test_what_has_no_attention_of_this_kind_is_refused(
    tmp_path: Path, model: Callable[[], Any], complaint: str
) -> None:
    model().save_pretrained(tmp_path)
    with pytest.raises(StartupError, match=f"model_type {complaint}|max_position_embeddings"):
        start(tmp_path)


def test_missing_tensors_are_named(tmp_path: Path) -> None:
    write(MODELS["gpt_neox"](), tmp_path)
    edit_weights(tmp_path, lambda tensors: tensors.pop("gpt_neox.layers.1.mlp.dense_4h_to_h.bias"))
    with pytest.raises(StartupError, match=r"1 tensors are missing: gpt_neox\.layers\.1\.mlp\.dense_4h_to_h\.bias"):
        start(tmp_path)
