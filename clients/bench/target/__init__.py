"""Servers under load. Nothing is parsed while others wait for their tokens: bytes and times are kept till later."""
