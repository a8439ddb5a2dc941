"""Clients of a running Quire, for Python and for the command line."""

from quire.clients.async_client import AsyncClient
from quire.clients.client import Client
from quire.protos.credentials import Credentials

__all__ = ["AsyncClient", "Client", "Credentials"]
