"""Plug-ins for the scheduler, one file each."""
