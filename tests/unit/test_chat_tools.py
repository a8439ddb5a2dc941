"""Tool calls and reasoning in a model's text: the same however it is cut, and whatever it is."""

import json
import random
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import pytest

from quire.engine.chat.answer import AnswerReader, join_deltas
from quire.engine.chat.conversation import Conversation
from quire.engine.chat.delta import CallDelta, ContentDelta, Delta, ReasoningDelta
from quire.engine.chat.message import Message
from quire.engine.chat.reasoning import ThinkReader, begins_reasoning, is_reasoning_open
from quire.engine.chat.tools.formats import TOOL_FORMATS, recognise_tool_format
from quire.engine.chat.tools.required import RequiredReader
from quire.engine.chat.tools.schema_types import as_json, parameter_types
from support.chats import TEMPLATES

READERS = {**TOOL_FORMATS, "required": RequiredReader}
TYPES: dict[str, Any] = {
    "a": {"type": "string"}, "n": {"type": "integer"}, "x": {"type": "number"}, "b": {"type": "boolean"},
    "o": {"type": "object"}, "l": {"type": "array"}, "u": {"anyOf": [{"type": "string"}, {"type": "null"}]},
    "r": {"$ref": "#/$defs/Level"}, "t": {"type": ["integer", "null"]}, "any": {},
}  # fmt: skip
TOOLS: list[dict[str, Any]] = [
    {
        "type": "function",
        "function": {"name": "f", "parameters": {"properties": TYPES, "$defs": {"Level": {"enum": [1, 2]}}}},
    },
    {"type": "function", "function": {"name": "g"}},
]
ARGUMENTS = r'{"a": [1, {"b": "}] \" ü😀 </tool_call> [TOOL_CALLS] \\"}], "c": null}'
FENCED = "<｜tool▁call▁begin｜>function<｜tool▁sep｜>{}\n```json\n{}\n```<｜tool▁call▁end｜>"

# Parameter, what a model writes as plain text, and what becomes of it.
WRITTEN = [
    ("a", "12", '"12"'), ("a", "null", '"null"'), ("a", "", '""'), ("a", "\n", r'"\n"'), ("n", " -3 ", "-3"),
    ("n", "3.5", '"3.5"'), ("n", "three", '"three"'), ("n", "null", '"null"'), ("x", "3", "3"), ("x", "1e-2", "1e-2"),
    ("x", "NaN", '"NaN"'), ("b", "True", "true"), ("b", "false", "false"), ("b", "1", '"1"'), ("t", "None", "null"),
    ("o", '{"a": [1, "</parameter"]}', '{"a": [1, "</parameter"]}'), ("o", "{'a': 1}", '"{\'a\': 1}"'),
    ("l", "[1,\n2]", "[1,\n2]"), ("l", "{}", '"{}"'), ("u", "null", "null"), ("u", "12", '"12"'), ("r", "2", "2"),
    ("any", "2", '"2"'), ("other", "true", '"true"'),
]  # fmt: skip

# Format, text, content, calls.
CASES: list[tuple[str, str, str | None, list[tuple[str, str]]]] = [
    *((name, "plain <text> with { and [\n", "plain <text> with { and [\n", []) for name in READERS),
    *((name, "", "", []) for name in READERS),
    ("hermes", f'<tool_call>\n{{"name": "f", "arguments": {ARGUMENTS}}}\n</tool_call>', None, [("f", ARGUMENTS)]),
    (
        "hermes",
        'First.\n\n<tool_call>{"name":"f","arguments":{}}</tool_call>\n<tool_call>{"name":"g"}</tool_call>\nThen.',
        "First.\nThen.",
        [("f", "{}"), ("g", "{}")],
    ),
    ("hermes", '<tool_call>{"arguments": {"a": 1}, "id": 3, "name": "f"} after', "after", [("f", '{"a": 1}')]),
    ("hermes", r'<tool_call>{"name": "f", "arguments": "{\"a\": \"\\n\"}"}', None, [("f", r'{"a": "\n"}')]),
    ("hermes", '<tool_call>{"name": "f", "arguments": null}', None, [("f", "{}")]),
    ("hermes", '<tool_call>{"name": "f", "arguments": {"a": 1', None, [("f", '{"a": 1')]),
    ("hermes", '<tool_call>{"name": "f", "arguments": {}, oops}</tool_call> b', " b", [("f", "{}")]),
    ("hermes", '<tool_call>{"name": "f', '<tool_call>{"name": "f', []),
    ("hermes", '<tool_call>{"name": 3, "arguments": {}}', '<tool_call>{"name": 3, "arguments": {}}', []),
    ("hermes", '<tool_call> {"other": {"name": "f"}}', '<tool_call> {"other": {"name": "f"}}', []),
    ("hermes", '<tool_call>{"arguments": [1], "b": "c"} d', '<tool_call>{"arguments": [1], "b": "c"} d', []),
    ("hermes", "<tool_call>\n not JSON <tool_cal", "<tool_call>\n not JSON <tool_cal", []),
    (
        "qwen3_coder",
        'First.\n\n<tool_call>\n<function=f>\n<parameter=a>\n "ü"\n\n12\\ </parameter\n\n</parameter>\n'
        "<parameter=n>\n12\n</parameter>\n</function>\n</tool_call>\n<tool_call>\n<function=g>\n</function>\n</tool_call>\n"
        "Then.",
        "First.\nThen.",
        [("f", r'{"a": " \"ü\"\n\n12\\ </parameter\n", "n": 12}'), ("g", "{}")],
    ),
    *(
        ("qwen3_coder", f"<function=f><parameter={key}>\n{text}\n</parameter></function>", None, [("f", arguments)])
        for key, text, value in WRITTEN
        for arguments in [f'{{"{key}": {value}}}']
    ),
    ("qwen3_coder", "<tool_call><function=h>\n<parameter=k>\n1</parameter></tool_call>", None, [("h", '{"k": "1"}')]),
    ("qwen3_coder", "<function=other>\n</function>", "<function=other>\n</function>", []),
    ("qwen3_coder", "<tool_call>\n<function=f", "<tool_call>\n<function=f", []),
    ("qwen3_coder", "<tool_call> <b>", "<tool_call> <b>", []),
    ("qwen3_coder", "<tool_call><function=f><parameter=a>\nsome\n te", None, [("f", '{"a": "some\\n te')]),
    ("qwen3_coder", "<tool_call><function=f><parameter=n>\n12", None, [("f", '{"n": ')]),
    ("qwen3_coder", "<tool_call><function=f><parameter=\n1</parameter></function>", None, [("f", "{}")]),
    ("llama3", f'{{"name": "f", "parameters": {ARGUMENTS}}}', None, [("f", ARGUMENTS)]),
    ("llama3", '\n<|python_tag|>{"type": "function", "name": "f", "parameters": {}}', None, [("f", "{}")]),
    (
        "llama3",
        '{"name": "f", "parameters": {"a": 1}}; {"name": "g", "arguments": {}}\n',
        None,
        [("f", '{"a": 1}'), ("g", "{}")],
    ),
    ("llama3", '{"name": "Ann", "parameters": {}}', '{"name": "Ann", "parameters": {}}', []),
    ("llama3", ' {"town": "f"}\n', ' {"town": "f"}\n', []),
    ("llama3", 'Say {"name": "f", "parameters": {}}', 'Say {"name": "f", "parameters": {}}', []),
    ("llama3", '<|python_tag|>f.call(query="a")', '<|python_tag|>f.call(query="a")', []),
    ("mistral", f'[TOOL_CALLS] [{{"name": "f", "arguments": {ARGUMENTS}}}]', None, [("f", ARGUMENTS)]),
    (
        "mistral",
        'So: [TOOL_CALLS][{"name": "f", "arguments": {}}, {"arguments": {"a": 1}, "name": "g", "id": "123456789"}]',
        "So:",
        [("f", "{}"), ("g", '{"a": 1}')],
    ),
    ("mistral", f"[TOOL_CALLS]f[ARGS]{ARGUMENTS}[TOOL_CALLS]g[ARGS]{{}}", None, [("f", ARGUMENTS), ("g", "{}")]),
    ("mistral", '[TOOL_CALLS]f[CALL_ID]abcdefghi[ARGS] {"a": 1}', None, [("f", '{"a": 1}')]),
    ("mistral", '[TOOL_CALLS]f{"a": 1}', None, [("f", '{"a": 1}')]),
    ("mistral", '[TOOL_CALLS]{"name": "f", "arguments": {}}', None, [("f", "{}")]),
    ("mistral", '[TOOL_CALLS]f[ARGS]{"a": [', None, [("f", '{"a": [')]),
    ("mistral", "[TOOL_CALLS] what?", "[TOOL_CALLS] what?", []),
    ("mistral", "[TOOL_CALLS]", "[TOOL_CALLS]", []),
    ("mistral", "[TOOL_CALLS][ 3 ]", "[TOOL_CALLS][ 3 ]", []),
    (
        "deepseek",
        f"Well.<｜tool▁calls▁begin｜>{FENCED.format('f', ARGUMENTS)}\n{FENCED.format('g', '{}')}<｜tool▁calls▁end｜>",
        "Well.",
        [("f", ARGUMENTS), ("g", "{}")],
    ),
    (
        "deepseek",
        f"<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>f<｜tool▁sep｜>{ARGUMENTS}<｜tool▁call▁end｜>"
        "<｜tool▁call▁begin｜>function<｜tool▁sep｜>{}<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
        None,
        [("f", ARGUMENTS), ("function", "{}")],
    ),
    ("deepseek", "<｜tool▁call▁begin｜>f<｜tool▁sep｜><｜tool▁call▁end｜>", None, [("f", "{}")]),
    ("deepseek", '<｜tool▁call▁begin｜>function<｜tool▁sep｜>f\n```json\n{"a": ', None, [("f", '{"a": ')]),
    ("required", f' [{{"name": "f", "arguments": {ARGUMENTS}}}]', None, [("f", ARGUMENTS)]),
    ("required", '[{"name": "f"}, {"name": "g", "arguments": {"a": 1', None, [("f", "{}"), ("g", '{"a": 1')]),
    ("required", '[{"name": "f", "arguments": {}}] and more', " and more", [("f", "{}")]),
    ("required", "[3, 4]", "[3, 4]", []),
    ("required", '[{"na', '[{"na', []),
    ("deepseek", "<｜tool▁call▁begin｜>f\n<b>", "<｜tool▁call▁begin｜>f\n<b>", []),
    ("deepseek", "<｜tool▁call▁begin｜>function<｜tool▁sep｜>", "<｜tool▁call▁begin｜>function<｜tool▁sep｜>", []),
]  # fmt: skip


def read(make: Callable[[], AnswerReader], pieces: Iterable[str]) -> Message:
    reader = make()
    deltas = [delta for piece in pieces for delta in reader.push(piece)] + reader.finish()
    check(deltas)
    message = join_deltas(deltas)
    assert reader.has_calls == bool(message.tool_calls)
    return message


def check(deltas: Sequence[Delta]) -> None:
    """Each call begins once, in order, with an id and a name; nothing is empty."""
    begun = 0
    for delta in deltas:
        if isinstance(delta, CallDelta):
            assert bool(delta.id) == bool(delta.name) == (delta.index == begun)
            assert delta.name or delta.arguments
            begun = max(begun, delta.index + 1)
            assert delta.index == begun - 1
        else:
            assert delta.text


def plain(message: Message) -> tuple[str, str | None, list[tuple[str, str]]]:
    return message.text, message.reasoning, [(call.name, call.arguments) for call in message.tool_calls]


def calls_of(name: str) -> Callable[[], AnswerReader]:
    return lambda: AnswerReader(None, READERS[name](TOOLS))


@pytest.mark.parametrize(("name", "text", "content", "calls"), CASES)
def test_calls_are_the_same_however_the_text_is_cut(
    name: str, text: str, content: str | None, calls: list[tuple[str, str]]
) -> None:
    whole = read(calls_of(name), [text])
    assert whole.content == content
    assert [(call.name, call.arguments) for call in whole.tool_calls] == calls
    assert len({call.id for call in whole.tool_calls}) == len(calls)
    expected = plain(whole)
    assert plain(read(calls_of(name), text)) == expected
    for cut in range(1, len(text)):
        assert plain(read(calls_of(name), [text[:cut], text[cut:]])) == expected


def test_calls_are_told_as_they_come() -> None:
    reader = calls_of("hermes")()
    assert reader.push("Yes") == [ContentDelta("Yes")]
    assert reader.push(" \n<tool") == []
    (begun,) = reader.push('_call>{"name": "f"')
    assert isinstance(begun, CallDelta)
    assert (begun.index, begun.name, begun.arguments, begun.id[:5]) == (0, "f", "", "call_")
    assert reader.push(', "arguments": {"a"') == [CallDelta(0, arguments='{"a"')]
    assert reader.push(": 1}") == [CallDelta(0, arguments=": 1}")]
    assert reader.push("}\n</tool_call>") == []
    assert reader.finish() == []


def test_ids_of_mistral_are_those_its_templates_accept() -> None:
    message = read(calls_of("mistral"), ["[TOOL_CALLS]f[ARGS]{}"])
    assert len(message.tool_calls[0].id) == 9
    assert message.tool_calls[0].id.isalnum()


def test_texts_are_told_as_they_come_and_other_values_whole() -> None:
    reader = calls_of("qwen3_coder")()
    (begun, argument) = reader.push("<tool_call>\n<function=f>\n<parameter=a>\nso ")[0:1] + reader.push("me\n")
    assert isinstance(begun, CallDelta)
    assert (begun.name, begun.arguments) == ("f", '{"a": "so ')
    assert argument == CallDelta(0, arguments="me")
    assert reader.push("more") == [CallDelta(0, arguments="\\nmore")]
    assert reader.push("\n</parameter><parameter=n>\n1") == [CallDelta(0, arguments='", "n": ')]
    assert reader.push("2\n</parameter>") == [CallDelta(0, arguments="12")]
    assert reader.push("</function>") == [CallDelta(0, arguments="}")]


def test_values_that_are_nested_too_deeply_are_text() -> None:
    assert json.loads(as_json("[" * 100_000, frozenset({"array"}))) == "[" * 100_000
    endless: dict[str, Any] = {"parameters": {"properties": {"a": {"$ref": "#/properties/a"}}}}
    assert parameter_types(endless, "a") == frozenset()


def test_only_the_first_call() -> None:
    text = '<tool_call>{"name": "f"}</tool_call><tool_call>{"name": "g"}</tool_call>'
    reader = AnswerReader(None, READERS["hermes"](), only_first_call=True)
    assert [call.name for call in join_deltas(reader.push(text) + reader.finish()).tool_calls] == ["f"]


@pytest.mark.parametrize("is_open", [False, True])
@pytest.mark.parametrize(
    ("text", "reasoning", "content"),
    [
        ("<think>\nHm, </thin\n</think>\n\nYes. </think> ", "Hm, </thin", "Yes. </think> "),
        ("\n<think>\n\n</think>\n\nYes", None, "Yes"),
        ("<think>Hm \n", "Hm", None),
        ("<think>Hm</think>", "Hm", None),
    ],
)
def test_reasoning(text: str, reasoning: str | None, content: str | None, is_open: bool) -> None:
    def make() -> AnswerReader:
        return AnswerReader(ThinkReader(is_open), None)

    expected = (content or ("" if reasoning is None else None), reasoning, [])
    for pieces in ([text], text, *([text[:cut], text[cut:]] for cut in range(len(text)))):
        message = read(make, pieces)
        assert (message.content, message.reasoning, []) == expected


def test_reasoning_that_the_prompt_has_opened() -> None:
    def make(is_open: bool) -> Callable[[], AnswerReader]:
        return lambda: AnswerReader(ThinkReader(is_open), READERS["hermes"]())

    text = 'Hm.\n</think>\n\nYes. <tool_call>{"name": "f"}</tool_call>'
    for pieces in ([text], text):
        message = read(make(True), pieces)
        assert plain(message) == ("Yes.", "Hm.", [("f", "{}")])
        assert read(make(False), pieces).content == "Hm.\n</think>\n\nYes."
    assert read(make(False), " plain").content == " plain"
    reader = make(True)()
    assert reader.push("Hm") == [ReasoningDelta("Hm")]


def test_formats_are_recognised_by_their_templates() -> None:
    names: dict[str, str | None] = {**dict(zip(TOOL_FORMATS, TOOL_FORMATS, strict=True)), "chatml": None}
    for template, name in names.items():
        assert recognise_tool_format((TEMPLATES / f"{template}.jinja").read_text()) == name
    assert begins_reasoning((TEMPLATES / "hermes.jinja").read_text())
    assert not begins_reasoning((TEMPLATES / "llama3.jinja").read_text())


def test_reasoning_is_open_where_the_prompt_ends_in_it() -> None:
    talk = Conversation.read([{"role": "assistant", "content": "<think>a"}])
    assert is_reasoning_open("<|Assistant|><think>\n", talk)
    assert not is_reasoning_open("<think>\n\n</think>\n\n", talk)
    assert is_reasoning_open("...<think>a", Conversation.read(talk.messages, continue_final_message=True))
    closed = [{"role": "assistant", "content": "<think>a</think>b"}]
    assert not is_reasoning_open("", Conversation.read(closed, continue_final_message=True))


@pytest.mark.parametrize("name", READERS)
def test_no_text_makes_a_reader_fail(name: str) -> None:
    """2,500 texts of each: pieces of its calls and of JSON in any order, and calls with characters changed."""
    dice = random.Random(name)
    texts = [text for of, text, _, _ in CASES if of == name and text]
    snippets = [text[at : at + dice.randint(1, 24)] for text in texts for at in range(0, len(text), 5)]
    snippets += [*'"\\{}[]:,\n\x00😀', '{"name": "f"', '"arguments": ', "</think>", ""]
    num_calls = 0
    for index in range(2_500):
        if index % 2:
            text = "".join(dice.choices(snippets, k=dice.randint(1, 12)))
        else:
            text = dice.choice(texts)
            for at in dice.choices(range(len(text)), k=dice.randint(1, 3)):
                text = text[:at] + dice.choice(snippets) + text[at + dice.randint(0, 3) :]
        make = calls_of(name)
        cuts = sorted(dice.choices(range(len(text) + 1), k=4))
        pieces = [text[begin:end] for begin, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]
        whole = read(make, [text])
        assert plain(read(make, pieces)) == plain(whole), text
        num_calls += len(whole.tool_calls)
        json.dumps(plain(whole))
    assert num_calls > 250
