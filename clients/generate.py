"""`quire generate`: one prompt from the command line, its answer on the terminal as it comes."""

import dataclasses
import json
import sys
from contextlib import closing
from typing import Annotated

from pydantic import AfterValidator, Field
from pydantic_settings import CliPositionalArg, SettingsConfigDict

from quire.clients.client import Client
from quire.clients.connection_settings import ConnectionSettings
from quire.engine.api.completion import Completion
from quire.engine.api.errors import QuireError
from quire.engine.api.options import RequestOptions
from quire.engine.api.sampling import SamplingParams
from quire.engine.api.structured_output import StructuredOutput
from quire.protos.address import Address

_STRUCTURES = ("json_schema", "json_object", "regex", "grammar", "choice")
EXIT_FAILED = 1
EXIT_INTERRUPTED = 130


def _unescaped(text: str) -> str:
    r"""Python's escapes as characters: a command line can hardly hold a line break otherwise.

    >>> _unescaped(r"Füße\n\x2c")
    'Füße\n,'
    """
    return text.encode("latin-1", "backslashreplace").decode("unicode_escape")


class Settings(ConnectionSettings):
    """Generates text from a prompt."""

    model_config = SettingsConfigDict(env_prefix="QUIRE_GENERATE_")

    prompt: CliPositionalArg[str]
    """The text to go on from; "-" reads it from standard input."""

    address: Address = "127.0.0.1:8001"
    """Host and port of a frontend's gRPC service."""

    api_key: str = Field("", repr=False)
    """For frontends that want one. It belongs into QUIRE_GENERATE_API_KEY: other users can read command lines."""

    adapter: str = ""
    """Name of the low-rank adapter that answers; default: the model alone."""

    max_tokens: int | None = None
    """Tokens to make at most; default: the server's."""

    temperature: float = 1.0
    """Divides the logits; 0 is greedy."""

    top_k: int = 0
    """Keep the k most likely tokens; 0 keeps all."""

    top_p: float = 1.0
    """Keep the smallest set of tokens with at least this probability mass."""

    min_p: float = 0.0
    """Keep tokens at least this likely relative to the most likely one."""

    seed: int | None = None
    """The same seed and request give the same tokens; default: the server draws one."""

    stop: tuple[Annotated[str, AfterValidator(_unescaped)], ...] = ()
    """Text that ends the answer, which stops before it; repeatable. Escapes are understood: \\n is a line break,
    \\x2c a comma (which would otherwise separate two), \\x20 a space at either end, \\\\ a backslash."""

    stop_token_ids: tuple[int, ...] = ()
    """Token that ends the answer; repeatable."""

    ignore_eos: bool = False
    """Go on past the model's end-of-sequence tokens."""

    presence_penalty: float = 0.0
    """Subtracted from the logit of each token generated so far; -2 to 2."""

    frequency_penalty: float = 0.0
    """Subtracted once for each time the token was generated; -2 to 2."""

    repetition_penalty: float = 1.0
    """Divides positive and multiplies negative logits of each token in the prompt or generated so far; at most 10."""

    logit_bias: dict[int, float] = {}
    """Added to the logits of these tokens, as JSON: '{"5": -100}'."""

    allowed_token_ids: tuple[int, ...] = ()
    """Token that may come, no other; repeatable."""

    bad_words: tuple[Annotated[str, AfterValidator(_unescaped)], ...] = ()
    """Text that must not be generated; repeatable. Escapes are understood."""

    min_tokens: int = 0
    """Nothing ends the answer before so many tokens."""

    no_repeat_ngram_size: int = 0
    """No run of so many tokens comes twice; 0 allows it."""

    include_stop_str_in_output: bool = False
    """The text ends behind the match of a stop string, not before it."""

    skip_special_tokens: bool = True
    """Special tokens make no text."""

    typical_p: float = 1.0
    """Keep the locally typical tokens with this probability mass."""

    prompt_logprobs: int | None = None
    """With --json: the same as --logprobs for each token of the prompt but the first; at most 20."""

    logprobs: int | None = None
    """With --json: number of most likely tokens to print beside each token, with log-probabilities; at most 20."""

    json_schema: str | None = None
    """The answer is JSON that this JSON Schema allows. Of this and the four that follow, one may be given."""

    json_object: bool = False
    """The answer is a JSON object."""

    regex: str | None = None
    """The answer matches this regular expression as a whole."""

    grammar: str | None = None
    """The answer matches this grammar in EBNF, from its rule root on."""

    choice: tuple[Annotated[str, AfterValidator(_unescaped)], ...] = ()
    """The answer is one of these texts; repeatable. Escapes are understood as in --stop."""

    timeout: float | None = Field(None, gt=0, allow_inf_nan=False)
    """Seconds that the whole answer may take; default: no limit."""

    json_output: bool = Field(False, alias="json")
    """Print the whole answer as one line of JSON when it is finished."""


def run(settings: Settings) -> int:
    """Prints the answer to standard output, or one line about what went wrong to standard error.

    Returns:
        The exit status: 0, 1 for an error, 130 after Ctrl-C (the request is cancelled on the server first).
    """
    try:
        prompt = sys.stdin.read() if settings.prompt == "-" else settings.prompt
        credentials = settings.credentials(settings.api_key)
        with Client(settings.address, timeout=settings.timeout, credentials=credentials) as client:
            if settings.json_output:
                print(_as_json(client.generate(prompt, _sampling(settings), options=_options(settings))))
            else:
                _stream(client, prompt, settings)
    except KeyboardInterrupt:
        print(file=sys.stderr)
        return EXIT_INTERRUPTED
    except (QuireError, UnicodeDecodeError) as error:
        print(f"quire generate: error: {_one_line(error)}", file=sys.stderr)
        return EXIT_FAILED
    return 0


def _stream(client: Client, prompt: str, settings: Settings) -> None:
    last = "\n"
    with closing(client.generate_stream(prompt, _sampling(settings), options=_options(settings))) as pieces:
        for piece in pieces:
            print(piece.text, end="", flush=True)
            last = piece.text[-1:] or last
    if last != "\n":
        print()


def _options(settings: Settings) -> RequestOptions:
    return RequestOptions(adapter=settings.adapter)


def _sampling(settings: Settings) -> SamplingParams:
    names = {field.name for field in dataclasses.fields(SamplingParams)} & set(Settings.model_fields)
    structure = StructuredOutput(**{name: getattr(settings, name) for name in _STRUCTURES})
    given = {name: getattr(settings, name) for name in names}
    return SamplingParams(**given, structured_output=structure if structure.given else None)


def _as_json(completion: Completion) -> str:
    fields = dataclasses.asdict(completion)
    reason = completion.finish_reason
    fields["finish_reason"] = reason.name.lower() if reason is not None else None
    # One prompt has one answer here.
    del fields["index"]
    for name in ("logprobs", "prompt_logprobs", "embedding"):
        if not fields[name]:
            del fields[name]
    if fields["cumulative_logprob"] is None:
        del fields["cumulative_logprob"]
    for each in fields.get("logprobs", ()):
        del each["rank"]
    return json.dumps(fields, ensure_ascii=False)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
