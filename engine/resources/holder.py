"""Who holds blocks in a pool's ledger: a sequence, once for each of its cache groups."""


def holder_in(sequence: str, group: int) -> str:
    """The name under which a sequence holds blocks of a cache group: its own in the first, "7.1" in the second."""
    return f"{sequence}.{group}" if group else sequence


def split_holder(holder: str) -> tuple[str, int]:
    """Sequence and cache group of a holder."""
    sequence, _, group = holder.rpartition(".")
    return (sequence, int(group)) if group.isdecimal() and sequence else (holder, 0)
