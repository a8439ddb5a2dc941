"""What of a structured output is refused where a request comes, before anything is compiled."""

from quire.engine.api.errors import InvalidRequest
from quire.engine.api.limits import MAX_CHOICES, MAX_STRUCTURE_BYTES
from quire.engine.api.structured_output import StructuredOutput

_TEXTS = ("json_schema", "regex", "grammar", "structural_tag")


def validate_structured_output(structure: StructuredOutput, field: str) -> None:
    """Refuses what is not of the right kind or size; whether it compiles is for the executor to say.

    Args:
        field: its name in the API at hand.

    Raises:
        InvalidRequest: names the field, the value and the limit.
    """
    if not isinstance(structure, StructuredOutput):
        raise InvalidRequest(field, structure, "must be a StructuredOutput")
    if len(structure.given) != 1:
        limit = "must have exactly one of json_schema, json_object, regex, grammar, choice and structural_tag"
        raise InvalidRequest(field, ", ".join(structure.given) or "none", limit)
    for name in _TEXTS:
        if (text := getattr(structure, name)) is not None:
            _check_text(f"{field}.{name}", text)
    if not isinstance(structure.json_object, bool):
        raise InvalidRequest(f"{field}.json_object", structure.json_object, "must be true or left out")
    if not isinstance(structure.choice, tuple):
        raise InvalidRequest(f"{field}.choice", structure.choice, "must be a list of texts")
    if len(structure.choice) > MAX_CHOICES:
        raise InvalidRequest(f"{field}.choice", len(structure.choice), f"must be at most {MAX_CHOICES} texts")
    for index, text in enumerate(structure.choice):
        _check_text(f"{field}.choice[{index}]", text)
    if structure.num_bytes > MAX_STRUCTURE_BYTES:
        raise InvalidRequest(field, structure.num_bytes, f"must be at most {MAX_STRUCTURE_BYTES} bytes of UTF-8")


def _check_text(field: str, text: object) -> None:
    if not isinstance(text, str):
        raise InvalidRequest(field, text, "must be a text")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise InvalidRequest(field, text, "must be Unicode without lone surrogates") from None
