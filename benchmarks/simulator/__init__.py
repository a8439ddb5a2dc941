"""The real scheduler against an imagined executor, in virtual time."""
