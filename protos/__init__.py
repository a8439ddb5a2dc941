"""The protocol: its definitions, and the public part of it as types of `quire.engine.api`."""
