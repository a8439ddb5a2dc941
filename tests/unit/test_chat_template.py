"""`ChatTemplate`: the text is that of `apply_chat_template`, and each refusal names its field."""

import json
import random
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from quire.engine.api.errors import InvalidRequest, StartupError
from quire.engine.chat.conversation import Conversation
from quire.engine.chat.folder_templates import FolderTemplates
from quire.engine.chat.message import Message, ToolCall, read_messages
from quire.engine.chat.template import ChatTemplate
from quire.engine.chat.tool_choice import ToolChoice
from support.chats import CHATS, SPECIAL_TOKENS, TEMPLATES, Reference, chat, with_text_arguments
from support.json_mutation import mutated_json

NAMES = ("chatml", "hermes", "qwen3_coder", "llama3", "mistral", "deepseek", "parts")
ALLOWED = {
    "type": "allowed_tools",
    "allowed_tools": {"mode": "auto", "tools": [{"type": "function", "function": {"name": "user"}}]},
}
_FIELDS = ("messages", "tools", "documents", "add_generation_prompt", "continue_final_message")


def conversation(given: Mapping[str, Any]) -> Conversation:
    fields = {key: value for key, value in given.items() if key in _FIELDS}
    fields.setdefault("add_generation_prompt", False)
    return Conversation.read(
        **fields, template_kwargs={key: value for key, value in given.items() if key not in _FIELDS}
    )


def render(source: str, given: Mapping[str, Any]) -> str:
    return ChatTemplate(source, SPECIAL_TOKENS).render(conversation(given))


@pytest.mark.parametrize("given", CHATS)
@pytest.mark.parametrize("name", NAMES)
def test_the_text_is_that_of_transformers(name: str, given: str) -> None:
    source = (TEMPLATES / f"{name}.jinja").read_text()
    expected = Reference().render(source, chat(given))
    # DeepSeek's take what transformers does not give, as other tests show.
    if name == "deepseek" and given in ("called", "answered"):
        assert expected is None
    elif expected is None:
        with pytest.raises(InvalidRequest, match="the chat template refuses them"):
            render(source, chat(given))
    else:
        assert render(source, chat(given)) == expected
        assert render(source, with_text_arguments(chat(given))) == expected


def test_most_of_these_are_texts() -> None:
    reference = Reference()
    sources = [(TEMPLATES / f"{name}.jinja").read_text() for name in NAMES]
    texts = [reference.render(source, chat(given)) for source in sources for given in CHATS]
    assert sum(text is not None for text in texts) > 0.8 * len(texts)


def test_arguments_are_text_where_the_template_wants_text() -> None:
    text = render((TEMPLATES / "deepseek.jinja").read_text(), chat("called"))
    assert text == (
        "<s><｜User｜>How warm is it in Füßen?<｜Assistant｜><｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function"
        '<｜tool▁sep｜>get_weather\n```json\n{"town": "Füßen", "days": 2}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>'
        '<｜end▁of▁sentence｜><｜tool▁output▁begin｜>{"warm": [21.5, 19]}<｜tool▁output▁end｜><｜Assistant｜><think>\n'
    )


def test_parts_are_joined_where_the_template_wants_text() -> None:
    parts = [{"type": "text", "text": "one"}, {"type": "text", "text": "two", "cache_control": {"type": "x"}}]
    given = {"messages": [{"role": "user", "content": parts}]}
    assert "<|im_start|>user\none\ntwo<|im_end|>" in render((TEMPLATES / "chatml.jinja").read_text(), given)
    source = (TEMPLATES / "parts.jinja").read_text()
    assert render(source, given) == Reference().render(source, given)


def test_developers_are_the_system_for_templates_that_know_none() -> None:
    given = {"messages": [{"role": "developer", "content": "a"}]}
    assert render("{{ messages[0].role }}", given) == "system"
    assert render("{# developer #}{{ messages[0].role }}", given) == "developer"


def test_further_fields_of_messages_reach_the_template() -> None:
    given = {"messages": [{"role": "user", "content": None, "plan": ["a"], "refusal": None}]}
    assert render("{{ messages[0] | tojson }}", given) == '{"role": "user", "plan": ["a"]}'


def test_a_message_goes_on_where_its_end_was() -> None:
    last = {"role": "assistant", "content": "so far, "}
    given = {"messages": [{"role": "user", "content": "a"}, last], "continue_final_message": True}
    assert render("{% for m in messages %}<{{ m.content }}>{% endfor %}", given) == "<a><so far, "
    assert render("{% for m in messages %}<{{ m.content | trim }}>{% endfor %}", given) == "<a><so far,"
    assert Conversation.read(given["messages"]).add_generation_prompt
    assert not Conversation.read(given["messages"], continue_final_message=True).add_generation_prompt
    for source in ("{{ messages[0].content }}", "{{ messages[-1].content[:3] }}"):
        with pytest.raises(InvalidRequest, match="continue_final_message: must be false"):
            render(source, given)
    with pytest.raises(InvalidRequest, match="continue_final_message: must be false"):
        render("a", {"messages": [{"role": "assistant"}], "continue_final_message": True})


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"messages": "a"}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": ["a"]}, "messages[0]"),
        ({"messages": [{"content": "a"}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": 3}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages[0].content[0].type"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages[0].content[0].text"),
        ({"messages": [{"role": "user", "content": [3]}]}, "messages[0].content[0]"),
        ({"messages": [{"role": "user", "name": 3}]}, "messages[0].name"),
        ({"messages": [{"role": "a", "tool_calls": "a"}]}, "messages[0].tool_calls"),
        ({"messages": [{"role": "a", "tool_calls": [{"id": "a"}]}]}, "messages[0].tool_calls[0]"),
        ({"messages": [{"role": "a", "tool_calls": [{"function": {}}]}]}, "messages[0].tool_calls[0].function.name"),
        ({"tools": {}}, "tools"),
        ({"tools": [{"type": "web_search"}]}, "tools[0]"),
        ({"tools": [{"type": "function"}]}, "tools[0].function"),
        ({"tools": [{"type": "function", "function": {"name": ""}}]}, "tools[0].function.name"),
        (
            {"tools": [{"type": "function", "function": {"name": "a", "parameters": 3}}]},
            "tools[0].function.parameters",
        ),
        ({"documents": ["a"]}, "documents[0]"),
        ({"template_kwargs": {"messages": []}}, "chat_template_kwargs"),
        ({"add_generation_prompt": True, "continue_final_message": True}, "add_generation_prompt"),
    ],
)
def test_refusals_name_the_field(given: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        Conversation.read(**{"messages": [{"role": "user", "content": "a"}], **given})
    assert refused.value.field == field


def test_whatever_is_given_is_read_or_refused() -> None:
    """6,000 conversations of JSON of any kind where fields are expected; and what is read is rendered or refused."""
    dice = random.Random(0)
    keys = ("role", "content", "name", "type", "text", "function", "arguments", "id", "tool_calls", "parameters", "b")

    def anything(depth: int) -> Any:
        kind = dice.randrange(9 if depth else 6)
        if kind < 6:
            return (None, True, 3, "user", "function", '{"a": 1}')[kind]
        if kind < 8:
            return {dice.choice(keys): anything(depth - 1) for _ in range(dice.randrange(4))}
        return [anything(depth - 1) for _ in range(dice.randrange(3))]

    templates = [ChatTemplate((TEMPLATES / f"{name}.jinja").read_text(), SPECIAL_TOKENS) for name in NAMES]
    num_read = 0
    for _ in range(6_000):
        messages = [{**as_object(anything(3)), "role": "user"} for _ in range(dice.randrange(1, 3))]
        tools = dice.choice((None, None, [], [{"type": "function", "function": anything(3)}], anything(3)))
        with suppress(InvalidRequest):
            read = Conversation.read(messages, tools=tools, documents=dice.choice((None, None, anything(2))))
            num_read += 1
            assert Conversation.read(**json.loads(json.dumps(read.as_json()))) == read
            for template in templates:
                with suppress(InvalidRequest):
                    template.render(read)
        choice = {"type": "function", "function": anything(2)}
        for given in (choice, anything(2), mutated_json(ALLOWED, dice)):
            with suppress(InvalidRequest):
                ToolChoice.read(given, frozenset({"user"}))
    assert num_read > 600


def as_object(given: Any) -> dict[str, Any]:
    return given if isinstance(given, dict) else {"content": given}


@pytest.mark.parametrize("source", ["{% if %}", "{{ a", "{% continue %}", "{{ 'a' | nope }}"])
def test_what_is_no_template_is_refused(source: str) -> None:
    with pytest.raises(InvalidRequest, match="chat_template: must be a Jinja template"):
        ChatTemplate(source, {})


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__.__mro__ }}",
        "{{ messages.append(1) }}",
        "{% set ns = namespace() %}{% set ns.__html__ = 1 %}",
        "{{ namespace(_a=1) }}",
        "{{ raise_exception('no') }}",
        "{{ 1 / 0 }}",
        "{{ messages[0].content + none }}",
        "{% macro a() %}{{ a() }}{% endmacro %}{{ a() }}",
        "{% for i in range(1000000) %}{% endfor %}",
    ],
)
def test_whatever_an_expression_raises_is_a_refusal(source: str) -> None:
    with pytest.raises(InvalidRequest, match=r"messages: the chat template refuses them: ."):
        render(source, chat("one"))


def test_messages_are_read_as_they_are_written() -> None:
    message = Message(
        "assistant",
        ("a", "b"),
        name="c",
        reasoning="d",
        tool_calls=(ToolCall("e", "{}", "f"), ToolCall("g", "not JSON")),
        tool_call_id="h",
        more={"i": [1]},
    )
    assert read_messages([json.loads(json.dumps(message.as_json()))]) == (message,)
    assert read_messages([message]) == (message,)


def test_text_that_is_no_json_stays_text() -> None:
    call = {"function": {"name": "a", "arguments": "{broken"}}
    given = {"messages": [{"role": "assistant", "tool_calls": [call]}]}
    assert render("{{ messages[0].tool_calls[0].function.arguments }}", given) == "{broken"


def write_folder(folder: Path, **config: Any) -> Path:
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


def test_a_folders_templates(tmp_path: Path) -> None:
    named = [{"name": "default", "template": "{{ bos_token }}plain"}, {"name": "tool_use", "template": "tools"}]
    found = FolderTemplates.load(write_folder(tmp_path, bos_token={"content": "<s>"}, chat_template=named))
    talk = conversation(chat("one"))
    assert found.special_tokens == {"bos_token": "<s>"}
    for has_tools, text in ((False, "<s>plain"), (True, "tools")):
        template = found.choose(has_tools)
        assert template is not None
        assert template.render(talk) == text
    write_folder(tmp_path, chat_template="text")
    assert FolderTemplates.load(tmp_path).templates["default"].source == "text"
    # Files go before what the configuration has.
    (tmp_path / "chat_template.jinja").write_text("file")
    (tmp_path / "additional_chat_templates").mkdir()
    (tmp_path / "additional_chat_templates" / "rag.jinja").write_text("rag")
    found = FolderTemplates.load(tmp_path)
    assert {name: template.source for name, template in found.templates.items()} == {"default": "file", "rag": "rag"}
    (tmp_path / "mine").write_text("mine")
    found = FolderTemplates.load(tmp_path, tmp_path / "mine")
    assert {name: template.source for name, template in found.templates.items()} == {"default": "mine"}


def test_a_folder_without_a_template(tmp_path: Path) -> None:
    assert FolderTemplates.load(tmp_path).choose(False) is None
    assert FolderTemplates.load(write_folder(tmp_path, chat_template=None)).choose(True) is None


@pytest.mark.parametrize("given", [3, [3], {"a": "b"}, "{% if %}", [{"name": "a"}]])
def test_a_folder_whose_template_is_none(tmp_path: Path, given: object) -> None:
    with pytest.raises(StartupError, match=r"tokenizer_config\.json: chat_template:? must be"):
        FolderTemplates.load(write_folder(tmp_path, chat_template=given))


def test_a_template_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(StartupError, match="cannot be read"):
        FolderTemplates.load(tmp_path, tmp_path / "none")
    (tmp_path / "latin").write_bytes(b"\xff")
    with pytest.raises(StartupError, match="UTF-8"):
        FolderTemplates.load(tmp_path, tmp_path / "latin")
