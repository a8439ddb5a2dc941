"""Who calls a frontend, by API key, and what each may do. Knows no transport but in `key_interceptor.py`."""
