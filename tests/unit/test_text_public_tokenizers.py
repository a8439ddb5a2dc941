"""`Tokenizer` against the files of public models, read by the `tokenizers` library itself."""

from pathlib import Path

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from quire.engine.api.errors import StartupError
from quire.engine.text.bound import TokenBound
from quire.engine.text.detokenizer import Detokenizer
from quire.engine.text.tokenizer import LONG_TEXT, Tokenizer
from support.public_tokenizers import PUBLIC, PublicTokenizer, word_piece

# What their steps are about: spaces, digits, scripts, line breaks, composition, special tokens as text.
TEXTS = [
    "",
    " ",
    " hi",
    "hello the fox",
    "  two  spaces and a tail  ",
    "    def f(x):\n\t\treturn x[0:1234567]  # it's\r\n\n\n",
    "Füße über Öl, e\u0301 x\u0301 \u212b ﬁ",
    "中文字符，かな カナ 가나다 и кириллица العربية",
    "😀 👩‍👩‍👧 \x00\x7f\u00a0\u3000\u2028",
    "<s>the</s> fox<pad> <s> the <unk> <0x0A> ▁ ▁▁the",
    "<|endoftext|>a<|im_end|> b <|user|>  c <bos>\n<｜begin▁of▁sentence｜>▁<PRE> x [INST] y [/INST]",
    "I'LL don't We'Ve ...?! #$% 3.14 1,000,000",
    "line of words " * (LONG_TEXT // 8),
]
SOME = st.one_of(st.text(max_size=20), st.lists(st.sampled_from(TEXTS[1:-1]), max_size=3).map("".join))


@pytest.fixture(scope="module", params=PUBLIC)
def kind(request: pytest.FixtureRequest) -> PublicTokenizer:
    return PUBLIC[request.param]


@pytest.fixture(scope="module")
def folder(kind: PublicTokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return kind.write(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def ours(folder: Path) -> Tokenizer:
    return Tokenizer.load(folder)


@pytest.fixture(scope="module")
def file(folder: Path) -> tokenizers.Tokenizer:
    return tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))


@pytest.fixture(scope="module")
def bound(ours: Tokenizer) -> TokenBound:
    return TokenBound(ours.backend)


def test_ids_and_text_are_those_of_the_file(ours: Tokenizer, file: tokenizers.Tokenizer) -> None:
    for text in TEXTS:
        ids = file.encode(text).ids
        assert ours.encode(text).tolist() == ids
        detokenizer = Detokenizer(ours)
        pieces = [detokenizer.push([token_id]) for token_id in ids]
        assert "".join([*pieces, detokenizer.flush()]) == file.decode(ids) == ours.decode(ids)


@given(text=SOME)
@settings(max_examples=60, deadline=None)
def test_what_fits_is_not_refused_by_its_bytes(
    text: str, ours: Tokenizer, file: tokenizers.Tokenizer, bound: TokenBound
) -> None:
    ids = file.encode(text).ids
    assert ours.encode(text).tolist() == ids
    assert bound.fewest_tokens(text.encode()) <= len(ids)


def test_what_cannot_fit_is_told_by_its_bytes(kind: PublicTokenizer, bound: TokenBound) -> None:
    assert (bound.fewest_tokens(b"word " * 100_000) > 10_000) is kind.has_bound


def test_kinds_that_lose_spaces_are_refused(tmp_path: Path) -> None:
    folder = PublicTokenizer(word_piece, "BertTokenizer").write(tmp_path)
    with pytest.raises(StartupError, match="decodes by WordPiece"):
        Tokenizer.load(folder)
