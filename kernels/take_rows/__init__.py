"""Rows of a matrix by their numbers: an embedding, or the hidden states of the tokens that sample.

matrix      [num_rows, size]
rows        [n] int64
result      [n, size]
"""
