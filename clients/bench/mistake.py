"""One line about a mistake in a file or in a server's answer."""

from pydantic import ValidationError

_LONGEST = 200


def first_mistake(error: ValidationError) -> str:
    """A message such as "runs.0.load: Input should be an object, got 3". A long value is cut."""
    problem = error.errors(include_url=False)[0]
    place = ".".join(map(str, problem["loc"]))
    given = "" if problem["type"] == "missing" else f", got {problem['input']!r:.{_LONGEST}}"
    return f"{place}: {problem['msg']}{given}" if place else f"{problem['msg']}{given}"
