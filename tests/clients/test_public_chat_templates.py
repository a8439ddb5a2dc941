"""Chat templates of public models, as packages on PyPI ship them: each renders as `apply_chat_template` has it."""

import os
from pathlib import Path
from typing import Any

import pytest

from quire.engine.api.errors import InvalidRequest
from quire.engine.chat.conversation import Conversation
from quire.engine.chat.template import ChatTemplate
from support.chats import CHATS, SPECIAL_TOKENS, Reference, chat, with_text_arguments

pytestmark = pytest.mark.clients
# `make test-clients` fills it.
FOLDER = Path(os.environ.get("QUIRE_CHAT_TEMPLATES", ".venv/chat-templates"))
AT_LEAST = {
    "axolotl/chatml", "axolotl/mistral_v2v3", "axolotl/phi_4", "trl/cohere", "trl/deepseek_r1_distill",
    "trl/deepseekv3", "trl/gemma", "trl/gptoss", "trl/llama3", "trl/llama3_1", "trl/llama3_2", "trl/phi3",
    "trl/qwen2_5", "trl/qwen3", "trl/qwen3_training",
}  # fmt: skip
_FIELDS = ("messages", "tools", "documents", "add_generation_prompt", "continue_final_message")


def sources() -> dict[str, str]:
    """By package and name. Templates of images and sound are among them."""
    return {
        f"{path.relative_to(FOLDER).parts[0]}/{path.stem}": path.read_text(encoding="utf-8")
        for path in sorted(FOLDER.rglob("*.jinja"))
    }


def render(source: str, given: dict[str, Any]) -> str | None:
    fields = {key: value for key, value in given.items() if key in _FIELDS}
    fields.setdefault("add_generation_prompt", False)
    more = {key: value for key, value in given.items() if key not in _FIELDS}
    try:
        return ChatTemplate(source, SPECIAL_TOKENS).render(Conversation.read(**fields, template_kwargs=more))
    except InvalidRequest:
        return None


def test_the_templates_are_there() -> None:
    assert set(sources()) >= AT_LEAST


@pytest.mark.parametrize("given", CHATS)
def test_each_renders_as_transformers_has_it(given: str) -> None:
    num_texts = 0
    reference = Reference()
    for name, source in sources().items():
        forms = (chat(given), with_text_arguments(chat(given)))
        expected = reference.render(source, forms[0]) or reference.render(source, forms[1])
        # What transformers cannot render, Quire may: it tries other forms of a call.
        if expected is not None:
            num_texts += 1
            assert [render(source, form) for form in forms] == [expected, expected], name
    assert num_texts >= 12
