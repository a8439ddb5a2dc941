"""The frontend service: text and token ids in, text and token ids out. Knows no torch and no Redis."""
