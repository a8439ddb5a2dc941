"""Grammars: what compiles and what does not, within which bounds, and what they allow."""

import gc
import json
import re
import signal
from typing import Any

import pytest
import torch
import xgrammar

from quire.engine.api.errors import InvalidRequest
from quire.engine.api.structured_output import StructuredOutput
from quire.engine.grammar import batch as batching
from quire.engine.grammar import matcher as matching
from quire.engine.grammar.examiner import GrammarExaminer, TrialLimits
from quire.engine.grammar.store import GrammarStore
from quire.engine.grammar.validation import validate_structured_output
from quire.engine.text.tokenizer import Tokenizer
from support.grammars import EOS, VOCAB_SIZE, allowed, demo_vocabulary, draw, start
from support.tokenizers import byte_tokenizer

_SCHEMA = json.dumps({"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]})
_TAG = json.dumps({"type": "structural_tag", "format": {"type": "const_string", "value": "<a>"}})
_KINDS = {
    "json_schema": StructuredOutput(json_schema=_SCHEMA),
    "json_object": StructuredOutput(json_object=True),
    "regex": StructuredOutput(regex=r"[a-f]{2,4}(-\d+)?"),
    "grammar": StructuredOutput(grammar='root ::= "x" item*\nitem ::= "," [0-9]'),
    "choice": StructuredOutput(choice=("yes", "no", 'a "quoted"\nline', "é")),
    "structural_tag": StructuredOutput(structural_tag=_TAG),
}


@pytest.fixture(scope="module")
def store() -> GrammarStore:
    return GrammarStore(demo_vocabulary)


def test_tokens_are_the_bytes_that_they_add_to_a_text() -> None:
    tokenizer: Tokenizer = byte_tokenizer()
    vocabulary = demo_vocabulary()
    assert vocabulary.tokens[:3] == (b"", b"", b"")
    assert b" if" in vocabulary.tokens
    larger = type(vocabulary).of(tokenizer, tokenizer.vocab_size + 5, (7,))
    assert larger.tokens[-5:] == (b"",) * 5
    assert larger.tokens[7] == b""
    assert set(larger.tokens[: tokenizer.vocab_size]) >= {bytes((byte,)) for byte in b"abc"}


@pytest.mark.parametrize("name", _KINDS)
def test_every_kind_allows_what_it_describes_and_nothing_else(store: GrammarStore, name: str) -> None:
    structure = _KINDS[name]
    store.get(structure)
    drawn = [draw(store.library, structure, seed) for seed in range(40)]
    texts = [text.decode() for text in drawn if text is not None]
    assert len(texts) > 20
    for text in texts:
        match name:
            case "json_schema":
                assert isinstance(json.loads(text)["a"], int)
            case "json_object":
                assert isinstance(json.loads(text), dict)
            case "regex":
                assert re.fullmatch(str(structure.regex), text)
            case "grammar":
                assert re.fullmatch(r"x(,[0-9])*", text)
            case "choice":
                assert text in structure.choice
            case "structural_tag":
                assert text == "<a>"
    assert name == "structural_tag" or len(set(texts)) > 1


@pytest.mark.parametrize(
    ("structure", "message"),
    [
        (StructuredOutput(regex="(a"), "sampling.structured_output.regex: must compile: Regex parsing error"),
        (StructuredOutput(regex="a\x00"), "sampling.structured_output.regex: must compile: The regex must not"),
        (StructuredOutput(grammar="root ::= a"), "grammar: must compile: EBNF parser error at line 1, column 10"),
        (StructuredOutput(grammar="root ::= root"), "grammar: must compile: no text matches it"),
        (StructuredOutput(json_schema="{"), "json_schema: must compile: Expecting property name"),
        (StructuredOutput(json_schema='{"type": "text"}'), 'json_schema: must compile: Unsupported type "text"'),
        (StructuredOutput(json_schema='{"not": {}}'), "json_schema: must compile: the schema: not is not supported"),
        (
            StructuredOutput(json_schema='{"type": "number", "multipleOf": 0.5}'),
            "json_schema: must compile: multipleOf is not supported for type:number",
        ),
        (
            StructuredOutput(json_schema='{"oneOf": [{"type": "number"}, {"type": "integer"}]}'),
            "json_schema: must compile: the schema: oneOf needs options of different types",
        ),
        (StructuredOutput(json_schema='{"$ref": "http://a/b"}'), "json_schema: must compile: URI should"),
        (StructuredOutput(structural_tag="[]"), "structural_tag: must compile: Invalid structural tag"),
    ],
    ids=lambda value: str(value)[-40:],
)  # fmt: skip
def test_what_is_malformed_is_refused_with_its_field(
    store: GrammarStore, structure: StructuredOutput, message: str
) -> None:
    for _ in range(2):
        with pytest.raises(InvalidRequest, match=re.escape(message)):
            store.get(structure)


def test_what_takes_too_long_or_too_much_is_refused_and_the_next_one_is_not() -> None:
    deep = '{"type": "array", "items": ' * 400 + "{}" + "}" * 400
    large = "|".join(f"word{index}" for index in range(100_000))
    examiner = GrammarExaminer(demo_vocabulary(), TrialLimits(cpu_seconds=1))
    small = GrammarExaminer(demo_vocabulary(), TrialLimits(cpu_seconds=60, memory_mib=32))
    assert examiner.mistake(StructuredOutput(json_schema=deep)) == "it takes more than 1 s to compile"
    assert examiner.mistake(StructuredOutput(regex="a")) is None
    # Either the library says that it cannot allocate, or that ends it.
    mistake = small.mistake(StructuredOutput(regex=large))
    assert re.match("it needs (too much memory|more than 32 MiB)", str(mistake))
    assert small.mistake(StructuredOutput(regex="a")) is None


def test_what_was_compiled_elsewhere_needs_no_process() -> None:
    store = GrammarStore(demo_vocabulary)
    assert store.get(StructuredOutput(regex="a"), is_tried=True).memory_size_bytes > 0
    # Not even of whoever says so wrongly.
    for grammar in ("ä", "root ::= nothing"):
        with pytest.raises(InvalidRequest, match="must compile"):
            store.get(StructuredOutput(grammar=grammar), is_tried=True)
    assert store._examiner is not None
    assert store._examiner._trial is None


def test_the_process_ends_with_its_examiner() -> None:
    examiner = GrammarExaminer(demo_vocabulary())
    assert examiner.mistake(StructuredOutput(regex="a")) is None
    assert examiner._trial is not None
    process = examiner._trial._process
    assert process.poll() is None
    del examiner
    gc.collect()
    assert process.returncode == -signal.SIGKILL


@pytest.mark.parametrize(
    "regex", ["(a{1000}){1000}", "(a?){500}a{500}", "((a|b){1,50}(c|d){1,50}){1,50}", "(.*a){200}"]
)
def test_nested_repetitions_are_compiled(store: GrammarStore, regex: str) -> None:
    assert allowed(store.library, start(store, StructuredOutput(regex=regex)))


def test_the_least_recently_used_grammar_is_dropped() -> None:
    store = GrammarStore(demo_vocabulary, max_bytes=60_000)
    structures = [StructuredOutput(regex=f"{letter}{{1,20}}") for letter in "abc"]
    first = store.get(structures[0])
    assert store.get(structures[0]) is first
    store.get(StructuredOutput(choice=tuple(f"choice {index}" for index in range(1000))))
    assert store.get(structures[0]) is not first
    assert store._num_bytes <= 60_000


@pytest.mark.parametrize("rows", [[0, 1, 2, 3], [1, 3], []])
def test_masks_are_applied_as_the_library_does(store: GrammarStore, rows: list[int]) -> None:
    vocab_size = 1000
    mask = torch.randint(-(2**31), 2**31, (4, 32), dtype=torch.int32)
    logits = torch.randn(4, vocab_size)
    expected = logits.clone()
    store.library.apply(logits, mask, torch.tensor(rows, dtype=torch.int64))
    if rows:
        xgrammar.apply_token_bitmask_inplace(expected, mask, vocab_size=vocab_size, indices=rows)
    assert torch.equal(logits, expected)


def test_the_state_depends_on_the_tokens_alone(store: GrammarStore) -> None:
    structure = _KINDS["json_schema"]
    vocabulary = demo_vocabulary()
    text, one, tokens = b'{"a": 12', start(store, structure), []
    for byte in text:
        tokens.append(vocabulary.tokens.index(bytes((byte,))))
        assert tokens[-1] in allowed(store.library, one)
        one.accept(tokens[-1:])
        again = start(store, structure)
        again.accept(tokens)
        assert allowed(store.library, again) == allowed(store.library, one)


def test_at_the_end_only_end_tokens_are_allowed_however_many_come(store: GrammarStore) -> None:
    matcher = start(store, StructuredOutput(choice=("a",)))
    matcher.accept([demo_vocabulary().tokens.index(b"a")])
    for _ in range(3):
        assert allowed(store.library, matcher) == [EOS]
        matcher.accept([EOS])
    assert matcher.failure is None


def test_a_token_that_the_grammar_forbids_ends_the_sequence_with_a_reason(store: GrammarStore) -> None:
    matcher = start(store, StructuredOutput(choice=("a",)))
    matcher.accept([demo_vocabulary().tokens.index(b"b")])
    assert isinstance(matcher.failure, InvalidRequest)
    assert matcher.failure.field == "sampling.structured_output"
    assert allowed(store.library, matcher) == [EOS]


def test_a_grammar_that_takes_long_to_follow_ends_its_sequence(
    store: GrammarStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds = iter(range(0, 1000))
    matcher = start(store, StructuredOutput(grammar='root ::= s\ns ::= s s | "a"'))
    mask = xgrammar.allocate_token_bitmask(1, VOCAB_SIZE)
    letter, num_tokens = demo_vocabulary().tokens.index(b"a"), 0
    monkeypatch.setattr(matching.time, "thread_time", lambda: next(seconds) / 2)
    while matcher.failure is None:
        matcher.fill(mask, 0)
        matcher.accept([letter])
        num_tokens += 1
    # Two looks at the clock are half a second apart; one second is for all, and a hundredth for each token.
    assert num_tokens == 2
    assert "10 ms a token" in str(matcher.failure)


def test_of_a_batch_only_the_text_that_takes_long_ends(store: GrammarStore, monkeypatch: pytest.MonkeyPatch) -> None:
    letter = demo_vocabulary().tokens.index(b"a")
    slow, quick = start(store, StructuredOutput(regex="a*")), start(store, StructuredOutput(regex="a*"))
    batch, mask = store.library.batch(1), xgrammar.allocate_token_bitmask(2, VOCAB_SIZE)
    clock = [0.0]
    # Time goes on only while the slow text is looked at, or a batch that has it.
    monkeypatch.setattr(batching.time, "perf_counter", lambda: clock.__setitem__(0, clock[0] + 0.1) or clock[0])
    monkeypatch.setattr(matching.time, "thread_time", lambda: clock[0])
    fill = slow.matcher.fill_next_token_bitmask
    monkeypatch.setattr(
        slow.matcher,
        "fill_next_token_bitmask",
        lambda *args: clock.__setitem__(0, clock[0] + 0.5) or fill(*args),
    )
    for _ in range(5):
        batch.fill([slow, quick], mask, [0, 1])
        batch.accept([slow, quick], [letter, letter])
    assert slow.failure is not None
    assert quick.failure is None


@pytest.mark.parametrize(
    ("structure", "message"),
    [
        (StructuredOutput(), r"so: must have exactly one of json_schema, json_object, .*, got 'none'"),
        (StructuredOutput(regex="a", choice=("a",)), "so: must have exactly one .*, got 'regex, choice'"),
        (StructuredOutput(regex="\ud800"), "so.regex: must be Unicode"),
        (StructuredOutput(choice=("a", "\ud800")), r"so.choice\[1\]: must be Unicode"),
        (StructuredOutput(choice=("a",) * 5000), "so.choice: must be at most 4096 texts, got 5000"),
        (StructuredOutput(regex="é" * 140_000), "so: must be at most 262144 bytes of UTF-8, got 280000"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_is_of_the_wrong_size_or_number_is_refused_at_once(structure: StructuredOutput, message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        validate_structured_output(structure, "so")


def test_what_is_of_the_wrong_type_is_refused_at_once() -> None:
    wrong: Any = StructuredOutput
    for structure in ("a", wrong(regex=3), wrong(json_object="yes"), wrong(choice="abc"), wrong(choice=(3,))):
        with pytest.raises(InvalidRequest, match=r"^so"):
            validate_structured_output(structure, "so")
