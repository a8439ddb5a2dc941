"""The fields of a body that say what an answer must match, as OpenAI's clients and vLLM's send them."""

import json
from collections.abc import Iterator
from typing import Any, Literal

from pydantic import Field

from quire.engine.api.errors import InvalidRequest
from quire.engine.api.structured_output import StructuredOutput
from quire.services.frontend.http.body import Body
from quire.services.frontend.http.errors import FieldNames


class NamedSchema(Body):
    """A schema as `response_format` has it."""

    name: str | None = None
    description: str | None = None
    schema_: dict[str, Any] | bool = Field(alias="schema")
    strict: bool | None = None
    """An answer is held to its schema in either case."""


class LegacyTag(Body):
    """A structured part of a text: what it begins with, its schema, and what it ends with."""

    begin: str
    schema_: dict[str, Any] | bool = Field(alias="schema")
    end: str


class ResponseFormat(Body):
    """OpenAI's, and vLLM's `structural_tag`, which is xgrammar's as it is or in its first form."""

    type: Literal["text", "json_object", "json_schema", "structural_tag"]
    json_schema: NamedSchema | None = None
    format: dict[str, Any] | None = None
    structures: list[LegacyTag] | None = None
    triggers: list[str] | None = None

    def structure(self) -> StructuredOutput | None:
        """
        Raises:
            InvalidRequest: what the type needs is missing.
        """
        if self.type == "json_object":
            return StructuredOutput(json_object=True)
        if self.type == "json_schema":
            if self.json_schema is None:
                raise InvalidRequest("response_format.json_schema", None, "must be given with this type")
            return StructuredOutput(json_schema=json.dumps(self.json_schema.schema_))
        if self.type == "structural_tag":
            return StructuredOutput(structural_tag=json.dumps({"type": "structural_tag", "format": self._format()}))
        return None

    def _format(self) -> dict[str, Any]:
        if self.format is not None:
            return self.format
        if self.structures is None or self.triggers is None:
            raise InvalidRequest("response_format.format", None, "must be given with this type")
        tags = [
            {"begin": each.begin, "content": {"type": "json_schema", "json_schema": each.schema_}, "end": each.end}
            for each in self.structures
        ]
        return {"type": "triggered_tags", "triggers": self.triggers, "tags": tags}


class StructuredOutputs(Body):
    """vLLM's."""

    json_: dict[str, Any] | bool | str | None = Field(None, alias="json")
    json_object: bool | None = None
    regex: str | None = None
    grammar: str | None = None
    choice: list[str] | None = None
    structural_tag: dict[str, Any] | str | None = None
    disable_fallback: bool | None = None
    """There is one way to compile a grammar here."""
    disable_any_whitespace: Literal[False] | None = None
    disable_additional_properties: bool | None = None
    """Only what the schema names is allowed in either case."""

    def structure(self) -> StructuredOutput:
        return StructuredOutput(
            json_schema=_text(self.json_),
            json_object=bool(self.json_object),
            regex=self.regex,
            grammar=self.grammar,
            choice=tuple(self.choice or ()),
            structural_tag=_text(self.structural_tag),
        )


class StructureFields(Body):
    """Fields that every API for text has; at most one may ask for something."""

    response_format: ResponseFormat | None = None
    structured_outputs: StructuredOutputs | None = None
    guided_json: dict[str, Any] | bool | str | None = None
    guided_regex: str | None = None
    guided_choice: list[str] | None = None
    guided_grammar: str | None = None
    guided_decoding_backend: str | None = None
    """There is one."""

    def structured_output(self) -> StructuredOutput | None:
        """What the answer must match.

        Raises:
            InvalidRequest: several fields say so.
        """
        given = dict(self._structures())
        if len(given) > 1:
            raise InvalidRequest(", ".join(given), "all", "must be at most one of them")
        return next(iter(given.values()), None)

    @property
    def structure_names(self) -> FieldNames:
        """What a refused structure is called: the field that asks for it."""
        return tuple(
            (f"sampling.structured_output.{kind}", name)
            for name, structure in self._structures()
            for kind in structure.given
        )

    def _structures(self) -> Iterator[tuple[str, StructuredOutput]]:
        if self.response_format is not None and (structure := self.response_format.structure()) is not None:
            yield "response_format", structure
        if self.structured_outputs is not None:
            yield "structured_outputs", self.structured_outputs.structure()
        if self.guided_json is not None:
            yield "guided_json", StructuredOutput(json_schema=_text(self.guided_json))
        if self.guided_regex is not None:
            yield "guided_regex", StructuredOutput(regex=self.guided_regex)
        if self.guided_choice is not None:
            yield "guided_choice", StructuredOutput(choice=tuple(self.guided_choice))
        if self.guided_grammar is not None:
            yield "guided_grammar", StructuredOutput(grammar=self.guided_grammar)


def _text(value: dict[str, Any] | bool | str | None) -> str | None:
    """JSON as text, given as text or as what it stands for."""
    return value if value is None or isinstance(value, str) else json.dumps(value)
