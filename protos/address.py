"""Places of services: "host:port", as settings take them."""

from typing import Annotated

from pydantic import AfterValidator

MAX_PORT = 65535


def _checked(address: str) -> str:
    host, _, port = address.rpartition(":")
    if not host or not (port.isascii() and port.isdecimal()) or int(port) > MAX_PORT:
        raise ValueError(f"must be host:port with a port of 0 to {MAX_PORT}")
    return address


def _checked_if_any(address: str) -> str:
    return address and _checked(address)


def _all_checked(addresses: str) -> str:
    for address in addresses.split(","):
        _checked(address)
    return addresses


Address = Annotated[str, AfterValidator(_checked)]
OptionalAddress = Annotated[str, AfterValidator(_checked_if_any)]
# Several, separated by commas.
Addresses = Annotated[str, AfterValidator(_all_checked)]
