"""The KV-block ledger: who holds which block of a pool, and which blocks hold which prefix."""
