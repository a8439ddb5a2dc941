"""Attention over a paged KV cache, for batches that mix chunks of context with single generated tokens.

A step is a list of rows; a row is a sequence that computes one or more new tokens, its *queries*. The keys
and values of the queries are in the cache before `run`. Query at position p sees positions up to p, and with
a sliding window of w only the last w of these, itself included. The layout of the cache and the compressed
row format are FlashInfer's (Ye et al., 2025).
"""
