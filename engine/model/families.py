"""The supported architectures, by the name in config.json."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final

from quire.engine.api.errors import StartupError
from quire.engine.json_file import shortened
from quire.engine.model.hf_config import HfConfig, read_hf_config
from quire.engine.model.llama import llama_config
from quire.engine.model.mistral import mistral_config
from quire.engine.model.model_config import ModelConfig, with_length
from quire.engine.model.qwen2 import qwen2_config
from quire.engine.model.qwen3 import qwen3_config

FAMILIES: Final[Mapping[str, Callable[[HfConfig], ModelConfig]]] = MappingProxyType(
    {
        "LlamaForCausalLM": llama_config,
        "MistralForCausalLM": mistral_config,
        "Qwen2ForCausalLM": qwen2_config,
        "Qwen3ForCausalLM": qwen3_config,
    }
)


def model_config(description: Mapping[str, Any], max_model_len: int | None) -> tuple[ModelConfig, HfConfig]:
    """Translate config.json; also returns it with its defaults.

    Args:
        description: the object in config.json, whose sizes are checked.
        max_model_len: tokens of prompt and generation together; None: the model's own limit.

    Raises:
        StartupError: none of its architectures is supported, it has something its family does not compute, or it does
            not reach that length.
    """
    names = description.get("architectures")
    for name in names if isinstance(names, list) else ():
        if isinstance(name, str) and name in FAMILIES:
            hf = read_hf_config(description)
            return with_length(FAMILIES[name](hf), hf, max_model_len), hf
    raise StartupError(f"architectures: one must be among {', '.join(FAMILIES)}, got {shortened(names)}")
