"""Deciding what runs in each step. Knows neither torch nor text."""
