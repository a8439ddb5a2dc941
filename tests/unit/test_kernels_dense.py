"""Norms, gate and rotation against formulas written another way."""

import pytest
import torch
from torch.nn import functional

from quire.kernels.activation import GELU_TANH, SILU, activate, clamped_swiglu
from quire.kernels.coded_linear import CodedLinear
from quire.kernels.coded_weight import int8
from quire.kernels.rms_norm import add_rms_norm, rms_norm
from quire.kernels.rope import rope


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rms_norm(dtype: torch.dtype) -> None:
    x, weight = torch.randn(5, 3, 64).to(dtype), torch.randn(64).to(dtype)
    wanted = functional.rms_norm(x.double(), (64,), weight.double(), 1e-5)
    tolerance = 1e-5 if dtype == torch.float32 else 2e-2
    torch.testing.assert_close(rms_norm(x, weight, 1e-5).double(), wanted, rtol=tolerance, atol=tolerance)


def test_fused_residual_is_the_sum() -> None:
    x, residual, weight = torch.randn(7, 32), torch.randn(7, 32), torch.randn(32)
    normed, total = add_rms_norm(x, residual, weight, 1e-6)
    assert torch.equal(total, x + residual)
    assert torch.equal(normed, rms_norm(x + residual, weight, 1e-6))


def test_activations() -> None:
    gate, up = torch.randn(2, 5, 24, dtype=torch.float64) * 3
    both, sigmoid = torch.cat((gate, up), dim=-1), lambda z: 1 / (1 + torch.exp(-z))
    torch.testing.assert_close(activate(both, SILU), gate * sigmoid(gate) * up)
    cubic = 0.7978845608 * (gate + 0.044715 * gate**3)
    torch.testing.assert_close(activate(both, GELU_TANH), 0.5 * gate * (1 + torch.tanh(cubic)) * up)
    clamped, kept = gate.minimum(torch.tensor(2.0)), up.maximum(torch.tensor(-2.0)).minimum(torch.tensor(2.0))
    wanted = (kept + 1) * clamped * sigmoid(1.5 * clamped)
    torch.testing.assert_close(activate(both, clamped_swiglu(1.5, 2.0)), wanted)


def test_rope_turns_pairs_as_complex_numbers() -> None:
    angles = torch.rand(20, 4) * 6
    positions = torch.tensor([3, 0, 19])
    merged = torch.randn(3, 5, 8)
    q, k = torch.split(merged.clone(), [3, 2], dim=1)
    rope(q, k, torch.cat((angles.cos(), angles.sin()), dim=-1), positions)
    turn = torch.polar(torch.ones(3, 1, 4), angles[positions][:, None])
    wanted = torch.complex(merged[..., :4], merged[..., 4:]) * turn
    wanted = torch.cat((wanted.real, wanted.imag), dim=-1)
    torch.testing.assert_close(torch.cat((q, k), dim=1), wanted)


def test_int8_weights_are_the_nearest() -> None:
    weight = torch.randn(9, 40) * torch.logspace(-3, 3, 9)[:, None]
    weight[4] = 0
    coded = int8(weight)
    integers, scale = coded.codes, coded.scales[:, 0]
    assert integers.dtype == torch.int8
    assert (weight - integers * scale[:, None]).abs().le(scale[:, None] * 0.5001).all()
    x, bias = torch.randn(3, 40), torch.randn(9)
    found = CodedLinear(coded, bias, torch.float32)(x)
    dense = integers.double() * scale.double()[:, None]
    wanted, size = x.double() @ dense.T + bias, x.double().abs() @ dense.abs().T + bias.abs()
    # Of the terms, not of a sum in which they may cancel.
    assert ((found - wanted).abs() <= 5e-6 * size).all()
