"""Messages between services that use every field, and are right."""

from typing import Any

import numpy as np

from quire.engine.api.options import CacheParams, RequestOptions, Retention
from quire.engine.api.sampling import SamplingParams
from quire.engine.api.structured_output import StructuredOutput
from quire.engine.open_request import OpenRequest
from quire.engine.step import StepPlan
from quire.internal.v1 import executor_pb2, scheduler_pb2
from quire.services.common import wire
from support.starts import sequence_start


def ints(*values: int) -> Any:
    return np.array(values, np.int32)


def good_plans(step: int) -> list[executor_pb2.StepPlan]:
    """Two that follow each other, for an executor with two slots and four blocks of 16 at least."""
    first = sequence_start(
        0, [5, 6, 7], [1], num_prompt=2, temperature=0.8, top_k=5, top_p=0.9, min_p=0.1, seed=7, presence_penalty=0.5,
        frequency_penalty=0.5, repetition_penalty=1.1, logprobs=2, prompt_logprobs=1, logit_bias={5: 1.0},
        bad_words_ids=((5, 6), (7,)), allowed_token_ids=(5, 6, 7), stop_token_ids=(8,), min_tokens=1,
        no_repeat_ngram_size=2, typical_p=0.9,
    )  # fmt: skip
    second = sequence_start(1, range(5, 22), [2, 3], 16)
    nothing = np.empty((0, 2), np.int32)
    plans = (
        StepPlan(step, nothing, (first,), ints(0), ints(4), ints(0), ints(3), ints(), step),
        StepPlan(step + 1, ints(1, 2).reshape(1, 2), (second,), ints(), ints(), ints(1), ints(1), ints(0), step),
    )
    return [wire.plan_to_proto(plan) for plan in plans]


def good_submission(handle: int) -> scheduler_pb2.Submission:
    """Three tokens of a prompt, of which two were answered already."""
    params = SamplingParams(
        seed=1, max_tokens=9, temperature=0.5, top_k=2, top_p=0.9, min_p=0.1, stop_token_ids=(3,), ignore_eos=True,
        presence_penalty=0.5, frequency_penalty=0.5, repetition_penalty=1.5,
        structured_output=StructuredOutput(regex="a"),
    )  # fmt: skip
    options = RequestOptions(1, CacheParams("salt", retention=(Retention(0, 4, 50, 1000),)))
    request = OpenRequest(handle, str(handle), ints(1, 2, 4), params, options, interval=2)
    request.generated.extend([5, 6])
    return wire.submission_to_proto(request, resumed=True)
