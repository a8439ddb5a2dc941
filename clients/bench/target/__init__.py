"""Servers under load. Bytes and times are kept as they come, and read when no one waits for tokens any more."""
