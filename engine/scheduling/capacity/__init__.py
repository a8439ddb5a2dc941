"""Who may hold KV blocks: the capacity policies, one file each."""
