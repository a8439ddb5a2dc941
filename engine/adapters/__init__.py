"""Low-rank adapters of a model: what their folders hold, and where they lie on a device."""
