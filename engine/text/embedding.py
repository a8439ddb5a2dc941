"""A request for an embedding: how it is sampled, and what comes of it."""

from dataclasses import replace
from typing import Final

import numpy as np

from quire.engine.api.completion import Completion
from quire.engine.api.embedding import Embedding
from quire.engine.api.errors import InvalidRequest, RequestError
from quire.engine.api.pooling import Pooling
from quire.engine.api.sampling import SamplingParams

_PROMPT_ALONE: Final = SamplingParams(temperature=0, max_tokens=0)


def embedding_params(pooling: Pooling) -> SamplingParams:
    """Parameters of a request that computes its prompt alone.

    Raises:
        InvalidRequest: it says not which hidden states are wanted.
    """
    if pooling is Pooling.NONE:
        raise InvalidRequest("pooling", pooling.name.lower(), "must be mean, last or cls")
    return replace(_PROMPT_ALONE, pooling=pooling)


def embedding_of(answer: Completion, normalize: bool) -> Embedding:
    """The embedding that a whole answer has.

    Args:
        normalize: divide it by its Euclidean norm.

    Raises:
        RequestError: the request was aborted before.
    """
    if not answer.embedding or answer.usage is None:
        raise RequestError(f"request {answer.request_id!r} ended without an embedding")
    vector = np.array(answer.embedding)
    if normalize and (norm := float(np.linalg.norm(vector))) > 0:
        vector /= norm
    return Embedding(tuple(vector.astype(np.float32).tolist()), answer.usage, answer.request_id)
