"""The tensors of the served model: those of Triton's TensorRT-LLM and vLLM backends, by their names."""

from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

from quire.engine.api.errors import InvalidRequest
from quire.services.frontend.kserve.tensor import Tensor

# Prompts of one request.
MAX_BATCH: Final = 128
_INTEGERS: Final = ("INT32", "INT64", "UINT32", "UINT64", "INT16", "UINT16", "INT8", "UINT8")
_FLOATS: Final = ("FP32", "FP64")
# By the datatype that is announced: those that are taken.
_TAKEN: Final = MappingProxyType(
    {"BYTES": ("BYTES",), "BOOL": ("BOOL",), "INT32": _INTEGERS, "UINT64": _INTEGERS, "FP32": _FLOATS}
)


@dataclass(frozen=True, slots=True)
class Input:
    """An input of the model.

    Attributes:
        datatype: as announced; other widths of the same kind are taken.
        is_list: a prompt may have several values.
        off: values that ask for nothing; others are refused, as there is nothing here that could do what they ask.
            None: every value is looked at.
    """

    name: str
    datatype: str
    is_list: bool = False
    off: tuple[Any, ...] | None = None

    @property
    def dims(self) -> tuple[int, ...]:
        """The shape without the batch."""
        return (-1,) if self.is_list else (1,)

    def rows(self, tensor: Tensor) -> list[list[Any]]:
        """The values of each prompt.

        Raises:
            InvalidRequest: the tensor has another datatype or shape, or asks for what there is not.
        """
        if tensor.datatype not in (taken := _TAKEN[self.datatype]):
            raise InvalidRequest(f"{self.name}.datatype", tensor.datatype, f"must be one of {', '.join(taken)}")
        width = tensor.shape[-1] if tensor.shape else 1
        if len(tensor.shape) not in (1, 2) or (not self.is_list and width != 1):
            limit = "must be [n, k] or [k]" if self.is_list else "must be [n, 1] or [1]"
            raise InvalidRequest(f"{self.name}.shape", tensor.shape, limit)
        num_rows = tensor.shape[0] if len(tensor.shape) == 2 else 1
        if self.off is not None:
            for value in tensor.elements:
                if value not in self.off:
                    allowed = " or ".join(map(repr, self.off))
                    raise InvalidRequest(self.name, value, f"is not supported here: must be {allowed}, or left out")
        return [list(tensor.elements[row * width : (row + 1) * width]) for row in range(num_rows)]


@dataclass(frozen=True, slots=True)
class Output:
    """An output of the model.

    Attributes:
        asked_by: the input that asks for it; "": there always.
        dims: the shape without the batch.
    """

    name: str
    datatype: str
    asked_by: str = ""
    dims: tuple[int, ...] = (1,)


TEXT_INPUT: Final = "text_input"
TEXT_OUTPUT: Final = "text_output"
BATCH_INDEX: Final = "batch_index"
SAMPLING_PARAMETERS: Final = "sampling_parameters"

# Inputs of the TensorRT-LLM backend that say how to sample.
SAMPLING_INPUTS: Final = (
    Input("max_tokens", "INT32"),
    Input("top_k", "INT32"),
    Input("top_p", "FP32"),
    Input("temperature", "FP32"),
    Input("repetition_penalty", "FP32"),
    Input("presence_penalty", "FP32"),
    Input("frequency_penalty", "FP32"),
    Input("random_seed", "UINT64"),
    Input("stop_words", "BYTES", is_list=True),
    Input("end_id", "INT32"),
    Input("min_tokens", "INT32"),
    Input("bad_words", "BYTES", is_list=True),
    Input("embedding_bias_words", "BYTES", is_list=True, off=(b"",)),
    Input("embedding_bias_weights", "FP32", is_list=True, off=(0.0,)),
    Input("beam_width", "INT32", off=(1,)),
    Input("num_return_sequences", "INT32", off=(1,)),
    # Without beams there are no lengths to weigh.
    Input("length_penalty", "FP32", off=(0.0, 1.0)),
)
INPUTS: Final = MappingProxyType(
    {
        each.name: each
        for each in (
            Input(TEXT_INPUT, "BYTES"),
            Input("stream", "BOOL"),
            Input("exclude_input_in_output", "BOOL"),
            # The vLLM backend's: a JSON object.
            Input(SAMPLING_PARAMETERS, "BYTES"),
            *SAMPLING_INPUTS,
            # Prompts of a batch are not padded.
            Input("pad_id", "INT32"),
            Input("return_log_probs", "BOOL"),
            Input("return_cumulative_logprob", "BOOL"),
            Input("return_finish_reason", "BOOL"),
            Input("return_num_input_tokens", "BOOL"),
            Input("return_num_output_tokens", "BOOL"),
            Input("return_logprobs", "BOOL", off=(False,)),
            Input("return_context_logits", "BOOL", off=(False,)),
            Input("return_generation_logits", "BOOL", off=(False,)),
            Input("return_perf_metrics", "BOOL", off=(False,)),
        )
    }
)
OUTPUTS: Final = MappingProxyType(
    {
        each.name: each
        for each in (
            Output(TEXT_OUTPUT, "BYTES"),
            Output("cum_log_probs", "FP32", "return_log_probs"),
            Output("output_log_probs", "FP32", "return_log_probs", (1, -1)),
            Output("cumulative_logprob", "FP32", "return_cumulative_logprob"),
            Output("finish_reason", "BYTES", "return_finish_reason"),
            Output("num_input_tokens", "UINT32", "return_num_input_tokens"),
            Output("num_output_tokens", "UINT32", "return_num_output_tokens"),
            # Of the response's prompt, where a batch is answered prompt by prompt.
            Output(BATCH_INDEX, "INT32"),
        )
    }
)
