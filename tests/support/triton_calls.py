"""Triton's own client against a frontend, in a process of its own: its stubs register the messages that ours do.

python -m support.triton_calls CALL ADDRESS MODEL

Prints what the call found, as JSON.
"""

import asyncio
import json
import queue
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

PROMPTS = ["def mean(values):\n", "import", "class Stack:\n    def "]


def tensor(name: str, values: np.ndarray) -> triton.InferInput:
    found = triton.InferInput(name, values.shape, np_to_triton_dtype(values.dtype))
    found.set_data_from_numpy(values)
    return found


def trtllm(prompts: list[str], stream: bool, **more: np.ndarray) -> list[triton.InferInput]:
    """Inputs as clients of the TensorRT-LLM backend send them, those that ask for nothing among them."""
    size = len(prompts)
    inputs = {
        "text_input": np.array([[prompt] for prompt in prompts], object),
        "max_tokens": np.full((size, 1), 12, np.int32),
        "stream": np.full((size, 1), stream),
        "beam_width": np.ones((size, 1), np.int32),
        "temperature": np.ones((size, 1), np.float32),
        "bad_words": np.array([[""]] * size, object),
        "stop_words": np.array([["", ""]] * size, object),
        "exclude_input_in_output": np.full((size, 1), True),
        **more,
    }
    return [tensor(name, values) for name, values in inputs.items()]


def vllm(prompt: str, stream: bool, **parameters: object) -> list[triton.InferInput]:
    """Inputs as clients of the vLLM backend send them."""
    return [
        tensor("text_input", np.array([prompt], object)),
        tensor("stream", np.array([stream])),
        tensor("sampling_parameters", np.array([json.dumps(parameters)], object)),
    ]


def texts(result: triton.InferResult) -> list[str]:
    return [each.decode() for each in result.as_numpy("text_output")]


def about(address: str, model: str) -> Any:
    """What the service says of itself."""
    with triton.InferenceServerClient(address) as client:
        config = client.get_model_config(model, as_json=True)["config"]
        metadata = client.get_model_metadata(model)
        try:
            client.load_model(model)
        except InferenceServerException as error:
            refusal = [error.status(), error.message()]
        return {
            "live": client.is_server_live(),
            "ready": client.is_server_ready(),
            "model_ready": client.is_model_ready(model),
            "other_ready": client.is_model_ready("other"),
            "server": client.get_server_metadata().name,
            "inputs": [each.name for each in metadata.inputs],
            "decoupled": config["model_transaction_policy"]["decoupled"],
            "index": [[each.name, each.state] for each in client.get_model_repository_index().models],
            "load": refusal,
        }


def infer(address: str, model: str) -> Any:
    """A batch, with log-probabilities and its own id; the same one prompt at a time; and as the vLLM backend has it."""
    with triton.InferenceServerClient(address) as client:
        wants = np.full((len(PROMPTS), 1), True)
        batch = client.infer(model, trtllm(PROMPTS, False, return_log_probs=wants), request_id="mine")
        alone = [client.infer(model, trtllm([prompt], False)) for prompt in PROMPTS]
        own = client.infer(model, vllm(PROMPTS[0], False, temperature="0", max_tokens="12", top_k=-1, n=1))
        statistics = client.get_inference_statistics(model).model_stats[0]
        return {
            "id": batch.get_response().id,
            "batch": texts(batch),
            "alone": [texts(each)[0] for each in alone],
            "cum_log_probs": batch.as_numpy("cum_log_probs").tolist(),
            "output_log_probs": batch.as_numpy("output_log_probs").tolist(),
            "vllm": texts(own),
            "inference_count": statistics.inference_count,
        }


def infer_async(address: str, model: str) -> Any:
    """By callback, and by asyncio."""
    found: queue.Queue[triton.InferResult] = queue.Queue()

    async def gather() -> list[str]:
        async with triton_aio.InferenceServerClient(address) as client:
            results = await asyncio.gather(*(client.infer(model, trtllm([prompt], False)) for prompt in PROMPTS))
            return [texts(each)[0] for each in results]

    with triton.InferenceServerClient(address) as client:
        client.async_infer(model, trtllm(PROMPTS, False), lambda result, error: found.put(error or result))
        return {"callback": texts(found.get(timeout=60)), "asyncio": asyncio.run(gather())}


def stream(address: str, model: str) -> Any:
    """Several requests over one stream, of which one is wrong: pieces by id, and whether each was the last."""
    found: queue.Queue[Any] = queue.Queue()
    pieces: dict[str, list[Any]] = {}
    errors = []
    with triton.InferenceServerClient(address) as client:
        client.start_stream(lambda result, error: found.put(error or result))
        for index, prompt in enumerate(PROMPTS):
            client.async_stream_infer(
                model, trtllm([prompt], True), request_id=f"{index}", enable_empty_final_response=True
            )
        client.async_stream_infer(model, vllm(PROMPTS[0], True, temperature=0, max_tokens=12), request_id="vllm")
        client.async_stream_infer(model, trtllm(PROMPTS, False), request_id="batch")
        client.async_stream_infer(model, vllm("x", True, top_p=7), request_id="wrong")
        num_open = len(PROMPTS) + 3
        while num_open:
            result = found.get(timeout=60)
            if isinstance(result, InferenceServerException):
                errors.append(result.message())
                num_open -= 1
                continue
            response = result.get_response()
            is_final = response.parameters["triton_final_response"].bool_param
            rows = result.as_numpy("batch_index")
            row = None if rows is None else int(rows[0][0])
            pieces.setdefault(response.id, []).append([row, texts(result)[0], is_final])
            num_open -= is_final
        client.stop_stream()
    return {"pieces": pieces, "errors": errors}


def cancel(address: str, model: str) -> Any:
    """Leaves a stream behind its first response."""
    found: queue.Queue[Any] = queue.Queue()
    with triton.InferenceServerClient(address) as client:
        client.start_stream(lambda result, error: found.put(error or result))
        length = np.array([[900]], np.int32)
        client.async_stream_infer(model, trtllm(["def"], True, max_tokens=length, end_id=np.array([[-1]], np.int32)))
        first = found.get(timeout=60)
        client.stop_stream(cancel_requests=True)
        return {"first": texts(first)}


CALLS: dict[str, Callable[[str, str], Any]] = {
    each.__name__: each for each in (about, infer, infer_async, stream, cancel)
}

if __name__ == "__main__":
    print(json.dumps(CALLS[sys.argv[1]](*sys.argv[2:])))
