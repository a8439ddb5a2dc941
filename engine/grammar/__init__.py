"""Structured output: a grammar says which tokens may come next."""
