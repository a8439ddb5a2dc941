"""Whether the model may call tools, must, or must call a certain one, and which of them it may call at all."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, Self

from quire.engine.api.errors import InvalidRequest

_LIMIT: Final = (
    'must be "none", "auto", "required", {"type": "function", "function": {"name": one of the tools}}, '
    'or {"type": "allowed_tools", "allowed_tools": {"mode": "auto" or "required", "tools": some of the tools}}'
)


@dataclass(frozen=True, slots=True)
class ToolChoice:
    """What a request wants of its tools.

    Attributes:
        mode: "none": the model is not told of them.
        name: the one to call, where one must be; None: any.
        allowed: names of those that the model is told of; None: all.
    """

    mode: Literal["none", "auto", "required"] = "auto"
    name: str | None = None
    allowed: frozenset[str] | None = None

    @classmethod
    def read(cls, given: object, tool_names: frozenset[str]) -> Self:
        """From JSON, as OpenAI's APIs have it; allowed tools may be in the form of chats or that of responses.

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
            case {"type": "allowed_tools", "allowed_tools": Mapping() as fields} | {"type": "allowed_tools", **fields}:
                mode, tools = fields.get("mode"), fields.get("tools")
                if mode in ("auto", "required") and isinstance(tools, Sequence):
                    names = frozenset(map(_name, tools))
                    if names and names <= tool_names:
                        return cls("auto" if mode == "auto" else "required", allowed=names)
        raise InvalidRequest("tool_choice", given, _LIMIT)

    def offered(self, tools: tuple[Mapping[str, Any], ...]) -> tuple[Mapping[str, Any], ...]:
        """The tools that the model is told of."""
        if self.mode == "none":
            return ()
        return tuple(tool for tool in tools if self.allowed is None or tool["function"]["name"] in self.allowed)


AUTO: Final = ToolChoice()


def _name(tool: object) -> str:
    """Of a tool as chats or responses have it; "", which is no tool's, if it has none."""
    match tool:
        case {"type": "function", "function": {"name": str(name)}} | {"type": "function", "name": str(name)}:
            return name
    return ""
