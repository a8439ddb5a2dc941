"""Whose turn it is among tenants: the tenant policies, one file each."""
