"""The version, in the one place that packaging and services read."""

__version__ = "0.1.0"
