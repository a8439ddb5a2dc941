"""An `Adapter`: low-rank matrices that change a model for the requests that name it."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Adapter:
    """One adapter of the model that is served.

    Attributes:
        name: as requests call it.
        path: its folder, as the executors find it.
        digest: SHA-256 (hex) over its files: what is cached with it is that of these.
    """

    name: str
    path: str
    digest: str
