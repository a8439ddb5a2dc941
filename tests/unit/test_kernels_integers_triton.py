"""Products with 4- and 8-bit integers in Triton: on a GPU, or in Triton's interpreter."""

from dataclasses import replace

import pytest
import torch

triton = pytest.importorskip("triton")

from quire.kernels.coded_weight import CodedWeight, Coding, fp8, int4, int8  # noqa: E402
from quire.kernels.cuda.float8_rows import RowRounder  # noqa: E402
from quire.kernels.cuda.integers import IntegerLinear, integer_linear  # noqa: E402
from quire.kernels.cuda.linear import CudaLinear, cuda_linear  # noqa: E402

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
# The interpreter multiplies the bits of bfloat16.
HALF = torch.bfloat16 if DEVICE.type == "cuda" else torch.float16
TOLERANCE = {torch.float16: 5e-3, torch.bfloat16: 3e-2}


@pytest.mark.parametrize("num_rows", [0, 1, 17, 64, 65])
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize(
    ("out", "size", "group"), [(20, 64, 32), (21, 96, 32), (18, 128, 64), (40, 256, 128), (33, 192, 192)]
)
@pytest.mark.parametrize(("has_zeros", "biased"), [(False, True), (True, False)])
def test_products(num_rows: int, bits: int, out: int, size: int, group: int, has_zeros: bool, biased: bool) -> None:
    half = 2 ** (bits - 1)
    codes = torch.randint(-half, half, (out, size), dtype=torch.int8, device=DEVICE)
    scales = torch.rand(out, size // group, device=DEVICE) / (half * size**0.5)
    zeros = torch.randint(-half, half + 1, scales.shape, device=DEVICE).float() if has_zeros else None
    weight = CodedWeight(codes, scales, HALF, zeros, bits=bits)
    bias = torch.randn(out, device=DEVICE).to(HALF) if biased else None
    # Without a GPU there is no product in float16 whose results are float32.
    is_wide = num_rows > (1 if group < 128 else 64)
    linear = integer_linear(weight, bias, HALF if is_wide else torch.float32)
    assert linear is not None
    assert is_wide == (num_rows > linear.most_rows)
    assert linear.codes.nbytes == out * size * bits // 8
    assert torch.equal(linear.widened(), weight.widened())
    x = torch.randn(num_rows, size, device=DEVICE).to(HALF)
    wanted = x.float() @ weight.widened(torch.float32).T + (0 if bias is None else bias.float())
    torch.testing.assert_close(linear(x).float(), wanted, rtol=TOLERANCE[HALF], atol=TOLERANCE[HALF])


def test_what_it_does_not_multiply() -> None:
    weight = torch.randn(8, 64, device=DEVICE).to(HALF)
    assert integer_linear(fp8(weight), None, HALF) is None
    assert integer_linear(int4(weight.float()), None, HALF) is None
    coded = int4(weight)
    assert coded.zeros is not None
    uneven = CodedWeight(coded.codes[:, :48], coded.scales[:, :1], HALF, coded.zeros[:, :1], bits=4)
    assert integer_linear(uneven, None, HALF) is None
    assert integer_linear(replace(coded, zeros=coded.zeros + 0.5), None, HALF) is None
    assert integer_linear(replace(coded, zeros=coded.zeros + 125), None, HALF) is None


@pytest.mark.parametrize("coding", [int4, int8])
def test_codes_that_no_kernel_reads_are_widened_once(coding: Coding) -> None:
    weight = torch.randn(8, 64, device=DEVICE).to(HALF)
    assert isinstance(cuda_linear(RowRounder(), coding(weight), None, HALF), IntegerLinear)
    narrow = coding(weight[:, :24])
    linear = cuda_linear(RowRounder(), narrow, None, HALF)
    assert isinstance(linear, CudaLinear)
    assert torch.equal(linear.weight, narrow.widened())
