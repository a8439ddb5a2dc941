"""Faults at random, from a seed, in real services under load: every answer is the one without a fault.

PYTHONPATH=tests python -m chaos --faults 1000 --seed 1
"""
