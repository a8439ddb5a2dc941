"""The OpenAI-compatible API over HTTP: the frontend's request path in another dress."""
