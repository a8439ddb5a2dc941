"""Chats: messages made into a prompt by the model's template, and the model's text made into an answer's parts.

It knows no torch, no request and no transport.
"""
