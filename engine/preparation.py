"""What an executor is asked to make ready, beside the steps, before sequences that need it start."""

from dataclasses import dataclass
from typing import TypeAlias

from quire.engine.api.adapter import Adapter
from quire.engine.api.structured_output import StructuredOutput
from quire.engine.request import Request


@dataclass(frozen=True, slots=True)
class StructurePreparation:
    """A structured output is to be compiled.

    Attributes:
        is_tried: some executor has compiled it before, so that it need not be tried in a process of its own.
    """

    structure: StructuredOutput
    is_tried: bool

    def is_for(self, request: Request) -> bool:
        """Whether the request waits for it."""
        return request.params.structured_output == self.structure


@dataclass(frozen=True, slots=True)
class AdapterPreparation:
    """An adapter is to be loaded into a place, which no sequence uses."""

    adapter: Adapter
    place: int

    def is_for(self, request: Request) -> bool:
        """Whether the request waits for it."""
        return request.adapter == self.adapter


Preparation: TypeAlias = StructurePreparation | AdapterPreparation
