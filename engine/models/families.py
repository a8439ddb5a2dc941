"""The supported families, and which one computes a checkpoint."""

import importlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from types import MappingProxyType
from typing import Any, Final, Protocol

from quire.engine.api.errors import StartupError
from quire.engine.json_file import shortened
from quire.engine.layers.build import Build
from quire.engine.layers.decoder import DecoderModel
from quire.engine.models.composed import ComposedModel
from quire.engine.models.config import DecoderConfig
from quire.engine.models.deepseek import DEEPSEEK_V2, DEEPSEEK_V3
from quire.engine.models.family import Family
from quire.engine.models.gemma2 import GEMMA2
from quire.engine.models.gemma3 import GEMMA3
from quire.engine.models.glm4 import GLM, GLM4
from quire.engine.models.gpt_oss import GPT_OSS
from quire.engine.models.granite import GRANITE
from quire.engine.models.llama import LLAMA
from quire.engine.models.mistral import MISTRAL
from quire.engine.models.mixtral import MIXTRAL
from quire.engine.models.olmo2 import OLMO2
from quire.engine.models.phi3 import PHI3
from quire.engine.models.qwen2 import QWEN2
from quire.engine.models.qwen3 import QWEN3
from quire.engine.models.qwen3_moe import QWEN3_MOE

logger = logging.getLogger(__name__)

AUTO: Final = "auto"
QUIRE: Final = "quire"
TRANSFORMERS: Final = "transformers"

FAMILIES: Final[tuple[Family[Any], ...]] = (
    LLAMA, MISTRAL, QWEN2, QWEN3, DEEPSEEK_V2, DEEPSEEK_V3, GEMMA2, GEMMA3, GLM, GLM4, GPT_OSS, GRANITE, MIXTRAL,
    OLMO2, PHI3, QWEN3_MOE,
)  # fmt: skip

BY_MODEL_TYPE: Final[Mapping[str, Family[Any]]] = MappingProxyType({each.model_type: each for each in FAMILIES})
BY_ARCHITECTURE: Final[Mapping[str, Family[Any]]] = MappingProxyType(
    {name: each for each in FAMILIES for name in each.architectures}
)


class Model(Protocol):
    """One model, known by its configuration."""

    @property
    def config(self) -> DecoderConfig:
        """What config.json says of it."""

    @property
    def implementation(self) -> str:
        """Whose code computes it."""

    def compose(self, build: Build) -> ComposedModel:
        """Its layers; nothing is allocated yet.

        Raises:
            StartupError: the configuration has something that is not computed.
        """


@dataclass(frozen=True, slots=True)
class FamilyModel:
    """Implements `Model`: one of a family here.

    Attributes:
        config: of the family's class.
    """

    family: Family[Any]
    config: DecoderConfig
    implementation: str = QUIRE

    def compose(self, build: Build) -> DecoderModel:
        """As of a `Model`."""
        return self.family.compose(self.config, build)


def find_model(description: Mapping[str, Any], implementation: str = AUTO) -> Model:
    """
    Args:
        description: the object in config.json, whose sizes are checked.
        implementation: "quire", "transformers", or "auto": the first, and the second where no family here has it.

    Raises:
        StartupError: none of its architectures is supported, or it has something that its family does not compute.
    """
    family = None if implementation == TRANSFORMERS else _family(description)
    if family is not None:
        config = read_config(description)
        if type(config) is not family.config:
            # Of another family, whose defaults then count.
            config = family.config.check(config.model_dump())
        config.require()
        return FamilyModel(family, config)
    if implementation == QUIRE or find_spec(TRANSFORMERS) is None:
        names, kind = description.get("architectures"), description.get("model_type")
        raise StartupError(
            f"architectures: one must be among {', '.join(BY_ARCHITECTURE)}, got {shortened(names)}, with model_type "
            f"{shortened(kind)}" + ("" if implementation == QUIRE else "; with transformers installed, any that it has")
        )
    # Takes seconds to import, and most models do without.
    module = importlib.import_module("quire.engine.models.transformers_model")
    found: Model = module.transformers_family(description, BY_ARCHITECTURE)
    if implementation == AUTO:
        logger.info("model_type %s: computed by transformers, slower than a family here", description.get("model_type"))
    return found


def _family(description: Mapping[str, Any]) -> Family[Any] | None:
    """By architecture; a file that names none is of the family that its type is of."""
    names, kind = description.get("architectures"), description.get("model_type")
    if "architectures" not in description and isinstance(kind, str):
        return BY_MODEL_TYPE.get(kind)
    known = [name for name in names if isinstance(name, str)] if isinstance(names, list) else []
    return next((BY_ARCHITECTURE[name] for name in known if name in BY_ARCHITECTURE), None)


def read_config(description: Mapping[str, Any]) -> DecoderConfig:
    """
    Raises:
        StartupError: its model_type is not supported, or a value is of a wrong type.
    """
    kind = description.get("model_type")
    if not isinstance(kind, str) or kind not in BY_MODEL_TYPE:
        raise StartupError(f"config.json: model_type must be one of {', '.join(BY_MODEL_TYPE)}, got {shortened(kind)}")
    found: DecoderConfig = BY_MODEL_TYPE[kind].config.read(description)
    return found
