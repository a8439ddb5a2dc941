"""What the text of an answer must match."""

from dataclasses import dataclass, fields


@dataclass(frozen=True, slots=True)
class StructuredOutput:
    """What the text of an answer must match; exactly one field is given.

    Attributes:
        json_schema: a JSON Schema, as text: the answer is JSON that it allows.
        json_object: True: the answer is any JSON object.
        regex: a regular expression that the whole answer matches.
        grammar: a grammar in EBNF, as llama.cpp writes it, with a rule "root".
        choice: the answer is one of these texts.
        structural_tag: xgrammar's structural tag, as JSON text: free text with structured parts, such as tool calls.
    """

    json_schema: str | None = None
    json_object: bool = False
    regex: str | None = None
    grammar: str | None = None
    choice: tuple[str, ...] = ()
    structural_tag: str | None = None

    def __post_init__(self) -> None:
        """A list of choices becomes a tuple; other types are refused with the request."""
        if isinstance(self.choice, list):
            object.__setattr__(self, "choice", tuple(self.choice))

    @property
    def given(self) -> tuple[str, ...]:
        """Names of the fields that are given."""
        return tuple(field.name for field in fields(self) if getattr(self, field.name) != field.default)

    @property
    def num_bytes(self) -> int:
        """Of all texts in UTF-8."""
        texts = (self.json_schema, self.regex, self.grammar, self.structural_tag, *self.choice)
        return sum(len(text.encode()) for text in texts if text is not None)
