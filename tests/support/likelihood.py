"""How likely `transformers` finds what was generated."""

import torch
from transformers import PreTrainedModel

from quire.engine.api.completion import Completion


def difference(model: PreTrainedModel, prompt: list[int], answer: Completion) -> float:
    """The largest between log-probabilities of the answer's tokens, there and by the model."""
    tokens = torch.tensor([[*prompt, *answer.token_ids]])
    with torch.inference_mode():
        logprobs = model(tokens).logits[0].float().log_softmax(-1)
    found = torch.tensor([entry.logprob for entry in answer.logprobs])
    wanted = logprobs[len(prompt) - 1 : -1].gather(1, tokens[0, len(prompt) :, None])[:, 0]
    return float((found - wanted).abs().max())
