"""The scheduler service: frontends above, executors below, the ledger beside it. Knows no torch and no text."""
