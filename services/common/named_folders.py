"""Settings of the form NAME=FOLDER."""

from collections.abc import Iterable
from typing import Annotated

from pydantic import AfterValidator


def _checked(text: str) -> str:
    name, equals, folder = text.partition("=")
    if not (name and equals and folder):
        raise ValueError("must be NAME=FOLDER")
    return text


NamedFolder = Annotated[str, AfterValidator(_checked)]


def by_name(folders: Iterable[NamedFolder]) -> dict[str, str]:
    """
    >>> by_name(["a=/one", "b=/two=2"])
    {'a': '/one', 'b': '/two=2'}
    """
    return {name: path for name, _, path in (folder.partition("=") for folder in folders)}
