"""What sequences hold while they run: KV blocks, slots, and the ledger that records the blocks."""
