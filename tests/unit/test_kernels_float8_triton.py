"""Products of few rows in e4m3, in Triton: on a GPU, or in Triton's interpreter."""

import pytest
import torch

triton = pytest.importorskip("triton")

from quire.kernels.coded_weight import fp8  # noqa: E402
from quire.kernels.cuda.float8_product import float8_product, most_rows  # noqa: E402
from quire.kernels.cuda.float8_rows import float8_rows  # noqa: E402

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


@pytest.mark.parametrize("num_rows", [0, 1, 17, 32, 33, 128])
@pytest.mark.parametrize(("out", "size"), [(16, 16), (80, 272), (144, 512)])
@pytest.mark.parametrize("biased", [False, True])
def test_products(num_rows: int, out: int, size: int, biased: bool) -> None:
    if num_rows > most_rows(DEVICE):
        pytest.skip("the device has too little shared memory")
    weight = fp8(torch.randn(out, size, device=DEVICE) / size**0.5)
    bias = torch.randn(out, device=DEVICE) if biased else None
    rows, row_scales = float8_rows(torch.randn(num_rows, size, device=DEVICE) * 9)
    found = float8_product(rows, row_scales, weight.codes, weight.scales.T.contiguous(), bias, torch.float32)
    wanted = rows.float() * row_scales @ weight.widened(torch.float32).T + (0 if bias is None else bias)
    # Tensor cores sum products of e4m3 in fewer bits than float32 has.
    assert (found - wanted).norm() <= 3e-3 * wanted.norm()


def test_rows_do_not_depend_on_each_other() -> None:
    weight = fp8(torch.randn(80, 512, device=DEVICE))
    scales = weight.scales.T.contiguous()
    rows, row_scales = float8_rows(torch.randn(32, 512, device=DEVICE))
    several = float8_product(rows, row_scales, weight.codes, scales, None, torch.float32)
    single = [
        float8_product(rows[row : row + 1], row_scales[row : row + 1], weight.codes, scales, None, torch.float32)
        for row in range(32)
    ]
    assert torch.equal(several, torch.cat(single))
