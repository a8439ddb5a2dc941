"""The `Family`: models that are computed alike."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from quire.engine.layers.build import Build
from quire.engine.layers.decoder import DecoderModel
from quire.engine.models.config import DecoderConfig

Config = TypeVar("Config", bound=DecoderConfig)


@dataclass(frozen=True, slots=True)
class Family(Generic[Config]):
    """Attributes:
    model_type: as config.json names the configuration.
    architectures: as config.json names what computes it.
    config: what is read of config.json.
    compose: makes the layers of a model.
    """

    model_type: str
    architectures: tuple[str, ...]
    config: type[Config]
    compose: Callable[[Config, Build], DecoderModel]
