"""The supported architectures, by the name in config.json."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final

from quire.engine.api.errors import StartupError
from quire.engine.model.llama import llama_config
from quire.engine.model.mistral import mistral_config
from quire.engine.model.model_config import ModelConfig
from quire.engine.model.qwen2 import qwen2_config
from quire.engine.model.qwen3 import qwen3_config

FAMILIES: Final[Mapping[str, Callable[[Any], ModelConfig]]] = MappingProxyType(
    {
        "LlamaForCausalLM": llama_config,
        "MistralForCausalLM": mistral_config,
        "Qwen2ForCausalLM": qwen2_config,
        "Qwen3ForCausalLM": qwen3_config,
    }
)


def model_config(hf: Any) -> ModelConfig:
    """Translate a Hugging Face configuration.

    Raises:
        StartupError: none of its architectures is supported, or it has something its family does not compute.
    """
    for name in hf.architectures or ():
        if name in FAMILIES:
            return FAMILIES[name](hf)
    raise StartupError(f"architectures: one must be among {', '.join(FAMILIES)}, got {hf.architectures!r}")
