"""Slot features: one file for each kind of request parameter that the executor looks at."""
