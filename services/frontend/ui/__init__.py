"""The live page: its files, and what goes on as server-sent events."""
