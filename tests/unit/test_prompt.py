"""What may be a prompt in this process, and what is said of anything else."""

from typing import Any

import numpy as np
import pytest
import torch

from quire.engine.api.errors import InvalidRequest
from quire.engine.api.prompt import prompt_content, prompt_contents
from quire.engine.api.sampling import SamplingParams

ONE = 'a text, a list of token ids, {"prompt": text} or {"prompt_token_ids": token ids}'


@pytest.mark.parametrize(
    ("prompts", "contents"),
    [
        ("a", ["a"]),
        ({"prompt": "a"}, ["a"]),
        ({"prompt_token_ids": [1, 2]}, [[1, 2]]),
        ([], []),
        (["a", [1, 2], (3,), {"prompt": "b"}, {"prompt_token_ids": (4,)}], ["a", [1, 2], (3,), "b", (4,)]),
        (("a", "b"), ["a", "b"]),
        ((text for text in "ab"), ["a", "b"]),
        (np.array(["a", "b"]), ["a", "b"]),
    ],
)
def test_prompts(prompts: Any, contents: list[Any]) -> None:
    assert prompt_contents(prompts) == contents


@pytest.mark.parametrize("rows", [np.array([[1, 2], [3, 4]]), torch.tensor([[1, 2], [3, 4]])])
def test_rows_of_an_array_are_prompts(rows: Any) -> None:
    assert [list(map(int, each)) for each in prompt_contents(rows)] == [[1, 2], [3, 4]]


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        ({}, "prompts: must have 'prompt' or 'prompt_token_ids' as its only key, got []"),
        (
            [{"prompt": "a", "salt": "b"}],
            "prompts[0]: must have 'prompt' or 'prompt_token_ids' as its only key, got ['prompt', 'salt']",
        ),
        ({"prompt": [1]}, "prompts['prompt']: must be a text, got [1]"),
        ({"prompt_token_ids": "ab"}, "prompts['prompt_token_ids']: must be a list of token ids, got 'ab'"),
        ([1, 2], f"prompts[0]: must be {ONE}, got 1"),
        (["a", None], f"prompts[1]: must be {ONE}, got None"),
        (["a", b"b"], f"prompts[1]: must be {ONE}, got b'b'"),
        (b"a", f"prompts: must be a text, a mapping, or a list whose entries are {ONE}, got b'a'"),
        ({"a"}, f"prompts: must be a text, a mapping, or a list whose entries are {ONE}, got {{'a'}}"),
        (None, f"prompts: must be a text, a mapping, or a list whose entries are {ONE}, got None"),
        (7, f"prompts: must be a text, a mapping, or a list whose entries are {ONE}, got 7"),
    ],
)
def test_what_is_no_prompt(prompts: Any, message: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        prompt_contents(prompts)
    assert str(caught.value) == message


def test_one_prompt() -> None:
    assert prompt_content({"prompt": "a"}) == "a"
    nothing: Any = None
    with pytest.raises(InvalidRequest, match=r"^prompt: must be a text"):
        prompt_content(nothing)


@pytest.mark.parametrize(
    ("given", "kept"), [("x", ("x",)), (["x", "y"], ("x", "y")), (("x",), ("x",)), ([], ()), (None, ())]
)
def test_stop_strings(given: Any, kept: Any) -> None:
    params = SamplingParams(stop=given, stop_token_ids=[3])
    assert (params.stop, params.stop_token_ids) == (kept, (3,))
    assert hash(params) == hash(SamplingParams(stop=kept, stop_token_ids=(3,)))
