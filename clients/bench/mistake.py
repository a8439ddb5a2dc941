"""What is wrong in a file or an answer of somebody else, in a line."""

from pydantic import ValidationError

_LONGEST = 200


def first_mistake(error: ValidationError) -> str:
    """Such as "runs.0.load: Input should be an object, got 3". What was given may be long, and is cut."""
    problem = error.errors(include_url=False)[0]
    place = ".".join(map(str, problem["loc"]))
    given = "" if problem["type"] == "missing" else f", got {problem['input']!r:.{_LONGEST}}"
    return f"{place}: {problem['msg']}{given}" if place else f"{problem['msg']}{given}"
