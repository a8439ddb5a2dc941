"""Quantized checkpoints stand for the numbers that their format says, and compute as plain ones of these numbers."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, CompressedTensorsConfig

from quire.engine.api.errors import StartupError
from quire.engine.quantization.config import read_quantization
from quire.engine.weights.checkpoint import read_checkpoint
from quire.kernels.native.levels import supported_levels
from quire.kernels.native.linear import NativeLinear
from quire.kernels.registry import kernel_suite
from support.checkpoints import edit_config, edit_weights, start
from support.composed import compose
from support.json_mutation import mutated_json
from support.quantized import Coder, awq, compressed, compressed_config, eight_bits, gptq, write_both

F8 = torch.float8_e4m3fn
INT4 = {"num_bits": 4, "type": "int", "symmetric": True, "strategy": "group", "group_size": 32, "dynamic": False}
EIGHT = {"num_bits": 8, "symmetric": True, "dynamic": False}
DYNAMIC = {"num_bits": 8, "symmetric": True, "dynamic": True, "strategy": "token"}
AWQ = {"quant_method": "awq", "bits": 4, "group_size": 32, "zero_point": True, "version": "gemm"}
GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 32, "desc_act": False, "sym": False}

FORMATS: dict[str, tuple[Coder, dict[str, Any]]] = {
    "int4 packed": (compressed(4, 32, True), compressed_config("pack-quantized", INT4)),
    "int4 packed with zeros": (
        compressed(4, 32, False), compressed_config("pack-quantized", INT4 | {"symmetric": False})
    ),
    "int8 packed": (
        compressed(8, 0, True),
        compressed_config("pack-quantized", EIGHT | {"type": "int", "strategy": "channel"}),
    ),
    "int8, activations too": (
        eight_bits(torch.int8, "channel"),
        compressed_config("int-quantized", EIGHT | {"type": "int", "strategy": "channel"}, DYNAMIC | {"type": "int"}),
    ),
    "fp8 of rows": (
        eight_bits(F8, "channel"),
        compressed_config(
            "float-quantized", EIGHT | {"type": "float", "strategy": "channel"}, DYNAMIC | {"type": "float"}
        ),
    ),
    "fp8 of a whole matrix": (
        eight_bits(F8, "tensor"),
        compressed_config(
            "float-quantized", EIGHT | {"type": "float", "strategy": "tensor"},
            {"num_bits": 8, "type": "float", "strategy": "tensor", "dynamic": False, "symmetric": True},
        ),
    ),
    "fp8 of blocks": (
        eight_bits(F8, "block", "weight_scale_inv"),
        {"quant_method": "fp8", "weight_block_size": [16, 16], "activation_scheme": "dynamic"},
    ),
    "fp8, static": (eight_bits(F8, "tensor"), {"quant_method": "fp8", "activation_scheme": "static"}),
    "awq": (awq(32), AWQ),
    "gptq": (gptq(4, 32), GPTQ),
    "gptq of 8 bits": (gptq(8, 32), GPTQ | {"bits": 8}),
    "gptq, second version": (gptq(4, 32, offset=0), GPTQ | {"checkpoint_format": "gptq_v2"}),
    "gptq in order of activation": (gptq(4, 32, shuffled=True), GPTQ | {"desc_act": True}),
}  # fmt: skip
SUITES = ("torch", "native") if supported_levels() else ("torch",)


@pytest.mark.parametrize("name", FORMATS)
def test_a_matrix_is_that_of_its_numbers(name: str, tmp_path: Path) -> None:
    coder, config = FORMATS[name]
    folders = write_both(tmp_path, coder, config)
    for suite in SUITES:
        kernels = kernel_suite(suite, torch.device("cpu"), torch.float32, 2)
        coded, plain = (compose(folder, kernels=kernels).block(1) for folder in folders)
        for part in ("qkv", "output"):
            linears = [getattr(block.attention, part) for block in (coded, plain)]
            found, wanted = (linear(torch.eye(linear.size)) for linear in linears)
            torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
        x = torch.randn(7, 64)
        found, wanted = (block.feed_forward(x) for block in (coded, plain))
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.filterwarnings("ignore:You passed")
@pytest.mark.parametrize("name", ["int4 packed", "int4 packed with zeros"])
def test_transformers_reads_the_same_numbers(name: str, tmp_path: Path) -> None:
    """Through the library that people write such checkpoints with."""
    coder, config = FORMATS[name]
    folder, _ = write_both(tmp_path, coder, config)
    plain = CompressedTensorsConfig(dequantize=True)
    theirs = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, quantization_config=plain)
    block, layer = compose(folder).block(1), theirs.model.layers[1]
    x = torch.randn(5, 64)
    with torch.no_grad():
        torch.testing.assert_close(block.feed_forward(x), layer.mlp(x), rtol=1e-4, atol=1e-4)


def test_what_is_left_alone_is_plain(tmp_path: Path) -> None:
    folder, plain = write_both(tmp_path, *FORMATS["int4 packed"])
    dense = compose(plain)
    assert torch.equal(compose(folder).head, dense.head)


@pytest.mark.parametrize(
    ("config", "complaint"),
    [
        ({"quant_method": "bitsandbytes"}, "quant_method must be one of fp8, awq, gptq, compressed-tensors, got 'bits"),
        ("fp8", "quantization_config must be an object, got 'fp8'"),
        (AWQ | {"version": "gemv"}, "version must be 'gemm', got 'gemv'"),
        (AWQ | {"group_size": 0}, "group_size must be -1 or above 0, got 0"),
        (AWQ | {"group_size": 48}, "groups of 48 columns do not divide 64"),
        (GPTQ | {"bits": 3}, "bits must be 4 or 8, got 3"),
        ({"quant_method": "fp8", "weight_block_size": [128]}, r"weight_block_size must be two sizes, got \[128\]"),
        (compressed_config("pack-quantized", INT4 | {"actorder": "group"}), "weights must be int4 or int8 packed"),
        (compressed_config("nvfp4-pack-quantized", INT4), "got format 'nvfp4-pack-quantized'"),
        ({"quant_method": "compressed-tensors", "config_groups": {}}, "config_groups must have one group"),
        ({"quant_method": "awq", **AWQ, "modules_to_not_convert": 3}, "modules left alone must be a list of names"),
    ],
)
def test_formats_that_are_not_known(tmp_path: Path, config: Any, complaint: str) -> None:
    folder, _ = write_both(tmp_path, *FORMATS["awq"])
    edit_config(folder, quantization_config=config)
    with pytest.raises(StartupError, match=complaint) as error:
        start(folder)
    assert str(folder) in str(error.value)


@pytest.mark.parametrize(
    ("edit", "complaint"),
    [
        (lambda tensors: tensors.pop("model.layers.0.mlp.up_proj.scales"), r"1 tensors are missing: .*up_proj\.scales"),
        (lambda tensors: tensors.update({"model.layers.0.mlp.up_proj.scales": torch.ones(3, 96)}),
         r"up_proj\.scales has shape \(3, 96\), but config.json says \(2, 96\)"),
        (lambda tensors: tensors.update({"model.layers.0.mlp.up_proj.qweight": torch.ones(64, 12)}),
         r"up_proj\.qweight has type F32, must be one of I32"),
    ],
)  # fmt: skip
def test_tensors_that_are_not_as_the_format_says(tmp_path: Path, edit: Callable[[Any], Any], complaint: str) -> None:
    folder, _ = write_both(tmp_path, *FORMATS["awq"])
    edit_weights(folder, edit)
    with pytest.raises(StartupError, match=complaint):
        start(folder)


@pytest.mark.parametrize(("quantization", "error"), [("int8", 0.01), ("int4", 0.2), ("fp8", 0.06)])
def test_plain_checkpoints_are_brought_into_codes(tmp_path: Path, quantization: str, error: float) -> None:
    folder = write_both(tmp_path, *FORMATS["awq"])[1]
    x = torch.randn(5, 64)
    wanted = compose(folder).block(0).feed_forward(x)
    found = compose(folder, coding=quantization).block(0).feed_forward(x)
    assert 0 < (found - wanted).norm() / wanted.norm() < error


@pytest.mark.skipif(not supported_levels(), reason="needs an x86-64 processor with AVX2")
@pytest.mark.parametrize("name", ["int4 packed", "int4 packed with zeros", "awq", "gptq"])
def test_four_bits_stay_four_bits(name: str, tmp_path: Path) -> None:
    kernels = kernel_suite("native", torch.device("cpu"), torch.float32, 1)
    layer = compose(write_both(tmp_path, *FORMATS[name])[0], kernels=kernels).block(0).feed_forward
    for linear in (layer.gate_up, layer.down):
        kernel = linear.kernel
        assert isinstance(kernel, NativeLinear)
        assert kernel.matrix.group == 32
        assert kernel.tensors[0] is not None
        assert kernel.tensors[0].nbytes == linear.out * linear.size / 2


@pytest.mark.parametrize("name", FORMATS)
def test_a_configuration_is_read_or_refused(name: str) -> None:
    dice, refused = random.Random(name), 0
    for _ in range(400):
        try:
            read_quantization(mutated_json(FORMATS[name][1], dice)).default.tensors(64, 96)
        except StartupError:
            refused += 1
    assert refused > 100


def test_tensors_that_contradict_each_other_are_refused(tmp_path: Path) -> None:
    packed, _ = write_both(tmp_path / "packed", *FORMATS["int4 packed"])
    shape = "model.layers.0.mlp.up_proj.weight_shape"
    edit_weights(packed, lambda tensors: tensors.update({shape: torch.tensor([96, 32])}))
    with pytest.raises(StartupError, match=r"weight_shape: must be that of \(96, 8\) words, got 96, 32"):
        start(packed)
    ordered, _ = write_both(tmp_path / "ordered", *FORMATS["gptq"])
    order = "model.layers.0.mlp.up_proj.g_idx"
    edit_weights(ordered, lambda tensors: tensors.update({order: torch.full((64,), 2, dtype=torch.int32)}))
    with pytest.raises(StartupError, match="g_idx: must be below 2"):
        start(ordered)


def test_parameters_are_counted_whatever_format_they_are_in(tmp_path: Path) -> None:
    coded, plain = (read_checkpoint(folder).outline for folder in write_both(tmp_path, *FORMATS["awq"]))
    assert coded == plain


def test_fp8_is_not_for_cpus(tmp_path: Path) -> None:
    folder = write_both(tmp_path, *FORMATS["awq"])[1]
    with pytest.raises(StartupError, match=r"'fp8' needs a GPU .* must be none, int8 or int4 on a CPU"):
        start(folder, quantization="fp8")
