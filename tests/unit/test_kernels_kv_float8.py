"""Keys and values in float8_e4m3fn, as Triton writes them: on a GPU, or in Triton's interpreter."""

import pytest
import torch

triton = pytest.importorskip("triton")

from quire.kernels.cuda.rope_append import rope_append  # noqa: E402
from quire.kernels.kv_append import kv_append  # noqa: E402
from quire.kernels.rope import rope  # noqa: E402

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
dtypes = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)


def append(merged: torch.Tensor, cos_sin: torch.Tensor, fused: bool) -> torch.Tensor:
    """The cache, float32, behind one head each of queries, keys and values, [tokens, 3, head_dim]."""
    num_tokens, _, head_dim = merged.shape
    generator = torch.Generator().manual_seed(0)
    slots = torch.randperm(num_tokens, generator=generator).to(DEVICE)
    positions = torch.arange(num_tokens, device=DEVICE) % len(cos_sin)
    layer_kv = torch.zeros(-(-num_tokens // 16), 2, 16, 1, head_dim, device=DEVICE).to(torch.float8_e4m3fn)
    q, k, v = torch.split(merged.clone(), [1, 1, 1], dim=1)
    if fused:
        rope_append(layer_kv, q, k, v, cos_sin, positions, slots)
    else:
        rope(q, k, cos_sin, positions)
        kv_append(layer_kv, k, v, slots)
    return layer_kv.float()


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # NumPy's, of which the interpreter is made
@dtypes
def test_every_number_is_rounded_as_the_reference_does(dtype: torch.dtype) -> None:
    """All of bfloat16, those out of range too, turned by nothing."""
    numbers = torch.arange(-(1 << 15), 1 << 15, dtype=torch.int32).to(torch.int16).view(torch.bfloat16).to(DEVICE)
    numbers = numbers.to(dtype).nan_to_num(0.1, posinf=60_000, neginf=-60_000)
    # Long heads: the interpreter takes its time for each program, not for each number.
    merged = torch.stack((numbers, numbers, numbers.flip(0))).view(3, -1, 1024).transpose(0, 1)
    still = torch.cat((torch.ones(1, 512), torch.zeros(1, 512)), dim=-1).to(DEVICE)
    found, wanted = (append(merged, still, fused) for fused in (True, False))
    assert torch.equal(found, wanted)
    assert found.max() == 448
    assert 0 < found[found > 0].min() < 0.002


@dtypes
def test_rotated_keys(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(1)
    merged = (torch.randn(96, 3, 64, generator=generator) * 3).to(DEVICE, dtype)
    angles = torch.rand(40, 32, generator=generator).to(DEVICE) * 6
    found, wanted = (append(merged, torch.cat((angles.cos(), angles.sin()), dim=-1), fused) for fused in (True, False))
    # A last bit decides now and then between two neighbours, an eighth apart; the interpreter cuts bfloat16 off.
    assert (found != wanted).float().mean() < 0.03
    torch.testing.assert_close(found, wanted, rtol=0.13, atol=0.002)


def test_nan_stays_nan() -> None:
    merged = torch.full((16, 3, 64), torch.nan, device=DEVICE)
    assert append(merged, torch.ones(1, 64, device=DEVICE), fused=True).isnan().all()
