"""The `GrammarStore`: compiled grammars of one model, the latest that were asked for."""

import importlib
import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, TypeAlias

from quire.engine.api.errors import InvalidRequest
from quire.engine.api.structured_output import StructuredOutput
from quire.engine.grammar.examiner import GrammarExaminer
from quire.engine.grammar.vocabulary import Vocabulary

if TYPE_CHECKING:
    from xgrammar import CompiledGrammar

    from quire.engine.grammar.library import GrammarLibrary

FIELD: Final = "sampling.structured_output"
# Of compiled grammars and of refusals, beside those in use.
_MAX_BYTES: Final = 256 * 2**20
_MAX_ENTRIES: Final = 4096
_Outcome: TypeAlias = "CompiledGrammar | InvalidRequest"


class GrammarStore:
    """Compiles each structured output once, as long as there is room for it. Safe to use from several threads.

    The library is loaded when the first one is asked for, and the process that tries grammars is started with the first
    that needs it.

    Args:
        load: reads the model's vocabulary.
        max_bytes: of grammars that are kept beside those in use.
    """

    def __init__(self, load: Callable[[], Vocabulary], max_bytes: int = _MAX_BYTES) -> None:
        self._load = load
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._loading = threading.Lock()
        self._examiner: GrammarExaminer | None = None
        self._library: GrammarLibrary | None = None
        # With the size of each in bytes; the one used last comes last.
        self._outcomes: OrderedDict[StructuredOutput, tuple[_Outcome, int]] = OrderedDict()
        self._num_bytes = 0

    def get(self, structure: StructuredOutput, is_tried: bool = False) -> "CompiledGrammar":
        """The compiled grammar, which may take seconds.

        Args:
            is_tried: it was compiled somewhere within `TrialLimits`, so it is not tried again.

        Raises:
            InvalidRequest: it is malformed, no text matches it, or it takes more than `TrialLimits`.
            Unavailable: grammars cannot be compiled now.
        """
        outcome = self._kept(structure)
        if outcome is None:
            outcome, size = self._compile(structure, is_tried)
            self._keep(structure, outcome, size)
        if isinstance(outcome, InvalidRequest):
            raise outcome
        return outcome

    @property
    def library(self) -> "GrammarLibrary":
        """What has compiled the grammars; loaded with the first."""
        with self._loading:
            return self._tools()[1]

    def _kept(self, structure: StructuredOutput) -> "_Outcome | None":
        with self._lock:
            if structure not in self._outcomes:
                return None
            self._outcomes.move_to_end(structure)
            return self._outcomes[structure][0]

    def _keep(self, structure: StructuredOutput, outcome: _Outcome, size: int) -> None:
        with self._lock:
            _, replaced = self._outcomes.pop(structure, (None, 0))
            self._outcomes[structure] = outcome, size
            self._num_bytes += size - replaced
            while self._num_bytes > self._max_bytes or len(self._outcomes) > _MAX_ENTRIES:
                _, (_, freed) = self._outcomes.popitem(last=False)
                self._num_bytes -= freed

    def _compile(self, structure: StructuredOutput, is_tried: bool) -> tuple[_Outcome, int]:
        with self._loading:
            examiner, library = self._tools()
        mistake = None if is_tried else examiner.mistake(structure)
        if mistake is None:
            try:
                grammar = library.compile(structure)
                return grammar, grammar.memory_size_bytes + structure.num_bytes
            except (RuntimeError, ValueError) as error:
                # Whoever said that it was tried was wrong.
                mistake = str(error)
        field = structure.given[0]
        refusal = InvalidRequest(f"{FIELD}.{field}", getattr(structure, field), f"must compile: {mistake}")
        return refusal, len(str(refusal)) + structure.num_bytes

    def _tools(self) -> "tuple[GrammarExaminer, GrammarLibrary]":
        """With `_loading` held."""
        if self._examiner is None or self._library is None:
            vocabulary = self._load()
            # An executor without structured output does without the library behind it.
            library = importlib.import_module("quire.engine.grammar.library")
            self._library = library.GrammarLibrary(vocabulary)
            self._examiner = GrammarExaminer(vocabulary)
        return self._examiner, self._library
