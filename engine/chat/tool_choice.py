"""Whether the model may call tools, must, or must call a certain one."""

from dataclasses import dataclass
from typing import Final, Literal, Self

from quire.engine.api.errors import InvalidRequest

_LIMIT: Final = 'must be "none", "auto", "required", or {"type": "function", "function": {"name": one of the tools}}'


@dataclass(frozen=True, slots=True)
class ToolChoice:
    """What a request wants of its tools.

    Attributes:
        mode: "none": the model is not told of them.
        name: the one to call, where one must be; None: any.
    """

    mode: Literal["none", "auto", "required"] = "auto"
    name: str | None = None

    @classmethod
    def read(cls, given: object, tool_names: frozenset[str]) -> Self:
        """From JSON, as OpenAI's API has it.

        Raises:
            InvalidRequest: it is anything else, or asks for tools that are not there.
        """
        if given is None or given == "none":
            return cls("none" if given == "none" else "auto")
        if not tool_names:
            raise InvalidRequest("tool_choice", given, "must be left out without tools")
        match given:
            case "auto" | "required":
                return cls("auto" if given == "auto" else "required")
            case {"type": "function", "function": {"name": str(name)}} if name in tool_names:
                return cls("required", name)
        raise InvalidRequest("tool_choice", given, _LIMIT)


AUTO: Final = ToolChoice()
