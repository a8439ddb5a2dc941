"""`StopMatcher` against a search of the whole text, however the text is cut."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quire.engine.text.stop import StopMatcher

# Few letters, so that stop strings overlap with each other and with themselves.
STOPS = st.lists(st.text("ab", min_size=1, max_size=5), max_size=4)
PARTS = st.lists(st.text("abc", max_size=6), max_size=8)


def search(text: str, stops: list[str]) -> tuple[str, str | None]:
    for end in range(len(text) + 1):
        complete = [stop for stop in stops if text[:end].endswith(stop)]
        if complete:
            longest = max(complete, key=len)
            return text[: end - len(longest)], longest
    return text, None


@given(parts=PARTS, stops=STOPS)
@settings(max_examples=500, deadline=None)
def test_equals_search_of_the_whole_text(parts: list[str], stops: list[str]) -> None:
    matcher = StopMatcher(stops)
    released = [matcher.push(part) for part in parts]
    assert ("".join(released) + matcher.flush(), matcher.matched) == search("".join(parts), stops)


@given(parts=PARTS, stops=STOPS)
@settings(max_examples=500, deadline=None)
def test_holds_back_no_more_than_may_begin_a_stop(parts: list[str], stops: list[str]) -> None:
    matcher = StopMatcher(stops)
    text = released = ""
    for part in parts:
        text += part
        released += matcher.push(part)
        if matcher.matched is not None:
            return
        prefixes = {stop[:size] for stop in stops for size in range(len(stop))} | {""}
        assert len(text) - len(released) == max(len(one) for one in prefixes if text.endswith(one))


def test_first_complete_match_wins() -> None:
    matcher = StopMatcher(["abcd", "bc"])
    assert matcher.push("xabcd") == "xa"
    assert matcher.matched == "bc"


def test_longer_of_two_that_end_together_wins() -> None:
    matcher = StopMatcher(["c", "abc"])
    assert matcher.push("xab") + matcher.push("cd") == "x"
    assert matcher.matched == "abc"


def test_nothing_comes_after_a_match() -> None:
    matcher = StopMatcher(["."])
    assert matcher.push("one. two") == "one"
    assert matcher.push("more") + matcher.flush() == ""


def test_flush_releases_what_was_held() -> None:
    matcher = StopMatcher(["</end>"])
    assert matcher.push("text</en") == "text"
    assert matcher.flush() == "</en"


def test_empty_stop_string_is_refused() -> None:
    with pytest.raises(ValueError, match="must not be empty"):
        StopMatcher(["a", ""])
