"""`adapter_config.json` of a PEFT folder."""

import re
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel, ConfigDict, ValidationError

from quire.engine.api.errors import StartupError
from quire.engine.config import mistakes
from quire.engine.json_file import read_json_object, shortened

CONFIG: Final = "adapter_config.json"
# What else PEFT may have trained, each with the only value that leaves it at low-rank matrices of linear layers.
_ONLY: Final = {
    "peft_type": ("LORA",),
    "bias": ("none",),
    "use_dora": (False,),
    "use_qalora": (False,),
    "lora_bias": (False,),
    "fan_in_fan_out": (False,),
    "modules_to_save": (None, []),
    "layer_replication": (None, []),
    "trainable_token_indices": (None, [], {}),
    "alora_invocation_tokens": (None, []),
    "target_parameters": (None, []),
    "megatron_config": (None, {}),
}


class PeftConfig(BaseModel):
    """Attributes:
    r: the rank of matrices that `rank_pattern` does not name, by a regular expression of the end of their names.
    lora_alpha, alpha_pattern: alike, what their products are scaled with, times the rank.
    use_rslora: times the root of the rank (Kalajdzievski, "Rank-Stabilized LoRA", 2023).
    """

    model_config = ConfigDict(frozen=True, strict=True, extra="ignore")

    r: int
    lora_alpha: int | float
    use_rslora: bool = False
    rank_pattern: dict[str, int] = {}
    alpha_pattern: dict[str, int | float] = {}

    def rank(self, module: str) -> int:
        """Of a module's matrices."""
        return int(_matching(self.rank_pattern, module, self.r))

    def scale(self, module: str) -> float:
        """What the product of a module's matrices is scaled with."""
        rank = self.rank(module)
        alpha = float(_matching(self.alpha_pattern, module, self.lora_alpha))
        return alpha / (rank**0.5 if self.use_rslora else rank)


def read_peft_config(folder: Path) -> PeftConfig:
    """
    Raises:
        StartupError: it is not there, is broken, or asks for more than low-rank matrices of linear layers.
    """
    content = read_json_object(folder / CONFIG)
    for key, allowed in _ONLY.items():
        if content.get(key, allowed[0]) not in allowed:
            raise StartupError(f"{CONFIG}: {key} must be {allowed[0]!r}, got {shortened(content[key])}")
    # Null is as left out.
    given: dict[str, Any] = {key: value for key, value in content.items() if value is not None}
    try:
        config = PeftConfig.model_validate(given)
    except ValidationError as error:
        wrong = "; ".join(f"{mistake.setting} {mistake.reason}" for mistake in mistakes(error))
        raise StartupError(f"{CONFIG}: {wrong}") from error
    for pattern in (*config.rank_pattern, *config.alpha_pattern):
        try:
            re.compile(pattern)
        except re.error as error:
            raise StartupError(f"{CONFIG}: {shortened(pattern)} is no regular expression: {error}") from error
    if wrong_ranks := [rank for rank in (config.r, *config.rank_pattern.values()) if rank < 1]:
        raise StartupError(f"{CONFIG}: ranks must be at least 1, got {wrong_ranks[0]}")
    return config


def _matching(patterns: dict[str, Any], module: str, default: float) -> float:
    """As PEFT does: the first whose expression matches the end of a name from the start of one of its parts."""
    found = (value for pattern, value in patterns.items() if re.match(rf"(.*\.)?({pattern})$", module))
    return float(next(found, default))
