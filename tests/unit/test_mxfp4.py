"""Codes of 4 bits are widened as transformers widens them; a gpt-oss in MXFP4 computes as the plain one."""

from pathlib import Path

import pytest
import torch
from transformers import GptOssConfig, GptOssForCausalLM
from transformers.integrations.mxfp4 import convert_moe_packed_tensors

from quire.kernels.mxfp4 import widened
from support.checkpoints import edit_config, edit_weights, start
from support.composed import compose

SIZES = {
    "vocab_size": 60, "hidden_size": 64, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 64, "num_local_experts": 3,
    "num_experts_per_tok": 2, "pad_token_id": None,
}  # fmt: skip


def random_codes(*shape: int) -> tuple[torch.Tensor, torch.Tensor]:
    blocks = torch.randint(0, 256, (*shape, 16), dtype=torch.uint8)
    return blocks, torch.randint(118, 124, shape, dtype=torch.uint8)


def test_codes_are_widened_as_transformers_does() -> None:
    torch.manual_seed(0)
    blocks, scales = random_codes(3, 8, 2)
    wanted = convert_moe_packed_tensors(blocks, scales, dtype=torch.bfloat16).transpose(1, 2)
    for expert in range(3):
        assert torch.equal(widened(blocks[expert], scales[expert], torch.bfloat16), wanted[expert])


def write_coded(folder: Path, tensors: dict[str, torch.Tensor], widen: bool) -> None:
    """Experts of codes, or of the numbers that they mean."""
    for name in [name for name in tensors if name.endswith(("gate_up_proj", "down_proj"))]:
        count, inner, out = tensors.pop(name).shape
        torch.manual_seed(out)
        blocks, scales = random_codes(count, out, inner // 32)
        if widen:
            tensors[name] = convert_moe_packed_tensors(blocks, scales, dtype=torch.float32).contiguous()
        else:
            tensors[f"{name}_blocks"], tensors[f"{name}_scales"] = blocks, scales


def test_a_model_of_codes_is_that_of_their_numbers(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("plain", "coded")]
    for folder in folders:
        torch.manual_seed(0)
        GptOssForCausalLM(GptOssConfig(**SIZES)).save_pretrained(folder)
        edit_weights(folder, lambda tensors, folder=folder: write_coded(folder, tensors, folder.name == "plain"))
    edit_config(folders[1], quantization_config={"quant_method": "mxfp4"})
    x, ids, weights = torch.randn(5, 64), torch.tensor([[0, 2]] * 5), torch.rand(5, 2)
    plain, coded = (compose(folder).block(1).feed_forward.experts(x, ids, weights) for folder in folders)
    assert torch.equal(plain, coded)


def test_scales_that_are_missing_are_named(tmp_path: Path) -> None:
    GptOssForCausalLM(GptOssConfig(**SIZES)).save_pretrained(tmp_path)
    edit_weights(tmp_path, lambda tensors: write_coded(tmp_path, tensors, False))
    edit_weights(tmp_path, lambda tensors: tensors.pop("model.layers.0.mlp.experts.down_proj_scales"))
    with pytest.raises(Exception, match=r"1 tensors are missing: model\.layers\.0\.mlp\.experts\.down_proj_scales"):
        start(tmp_path)
