"""Names for KV blocks: a chain of hashes over token ids, so that equal prefixes have equal names.

In the first cache group a name is the chain's hash. In others the group's index follows, one byte: no group finds
another's block.
"""

from array import array
from hashlib import blake2b

HASH_BYTES = 16


def chain_root(fingerprint: str, adapter: str = "", cache_salt: str = "") -> bytes:
    """The parent of every first block: blocks of different models, adapters or tenants never share a name."""
    parts = (part.encode() for part in (fingerprint, adapter, cache_salt))
    framed = b"".join(len(part).to_bytes(4, "little") + part for part in parts)
    return blake2b(framed, digest_size=HASH_BYTES).digest()


def extend_chain(hashes: list[bytes], root: bytes, tokens: "array[int]", num_blocks: int, block_size: int) -> None:
    """Appends to `hashes` until it names the first `num_blocks` blocks of `tokens`.

    Each name is BLAKE2b-128 over the parent's name and the block's int32 token ids.
    """
    parent = hashes[-1] if hashes else root
    for block in range(len(hashes), num_blocks):
        ids = tokens[block * block_size : (block + 1) * block_size].tobytes()
        parent = blake2b(parent + ids, digest_size=HASH_BYTES).digest()
        hashes.append(parent)


def in_group(name: bytes, group: int) -> bytes:
    """A hash of the chain as a name in a cache group."""
    return name + bytes((group,)) if group else name


def group_of(name: bytes) -> int:
    """The cache group that a name is in."""
    return name[HASH_BYTES] if len(name) > HASH_BYTES else 0


def hash_of(name: bytes) -> bytes:
    """The hash of the chain that a name is made of."""
    return name[:HASH_BYTES]
