"""What an executor says of itself arrives as it was said."""

from quire.engine.step import DeviceKind, ExecutorInfo
from quire.services.common.wire import info_from_proto, info_to_proto


def test_executor_info_survives_the_wire() -> None:
    info = ExecutorInfo(
        incarnation="a", fingerprint="b", vocab_size=10, max_model_len=4, num_blocks=5, block_size=6, max_batch_size=7,
        eos_token_ids=(8, 9), device=DeviceKind.CPU, tokenizer_fingerprint="c",
        committed=12, committed_epoch=13,
    )  # fmt: skip
    assert info_from_proto(info_to_proto(info)) == info
