"""How large a step is where no setting says so, by the kind of device."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, NamedTuple

from quire.engine.step import DeviceKind


class StepDefaults(NamedTuple):
    """Defaults of one kind of device.

    Attributes:
        max_num_tokens: token budget of a step. From there on products run at full speed.
        target_itl_ms: inter-token latency to aim at while little context waits; None: no aim.
    """

    max_num_tokens: int
    target_itl_ms: float | None


STEP_DEFAULTS: Final[Mapping[DeviceKind, StepDefaults]] = MappingProxyType(
    {
        # A step of 512 tokens takes a third of a second on two cores: too long for decode rows beside one prompt.
        DeviceKind.CPU: StepDefaults(512, 100),
        DeviceKind.GPU: StepDefaults(8192, None),
    }
)
