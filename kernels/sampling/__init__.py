"""Choose one token per row of logits.

A row's token is a pure function of its logits, parameters, seed and position, whatever else is in the batch.
Greedy rows take the most likely token. The others are filtered (temperature, top_k, top_p, min_p, in this
order) and drawn: one uniform number per row from a counter-based generator, then the inverse of the
cumulative distribution in the order of token ids.
"""
