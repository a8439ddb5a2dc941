"""The `GrammarExaminer`: tells what can be compiled within bounds from what cannot, without harm to this process."""

import json
import signal
import subprocess
import sys
import threading
import weakref
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection, Pipe
from typing import Any, Final

from quire.engine.api.errors import Unavailable
from quire.engine.api.structured_output import StructuredOutput
from quire.engine.grammar.vocabulary import Vocabulary

_MIB: Final = 2**20


@dataclass(frozen=True, slots=True)
class TrialLimits:
    """What one grammar may cost.

    Attributes:
        cpu_seconds: of computing.
        memory_mib: beside that of the process.
        wall_seconds: after which a process that neither answers nor computes is ended.
    """

    cpu_seconds: int = 5
    memory_mib: int = 1024
    wall_seconds: float = 60.0


class GrammarExaminer:
    """Owns a process that compiles grammars within `TrialLimits`; it starts with the first, and again after a loss.

    It ends with this object. Safe to use from several threads, which wait for each other.
    """

    def __init__(self, vocabulary: Vocabulary, limits: TrialLimits = TrialLimits()) -> None:
        self._vocabulary = vocabulary
        self._limits = limits
        self._lock = threading.Lock()
        self._trial: _Trial | None = None

    def mistake(self, structure: StructuredOutput) -> str | None:
        """Why the structure cannot be compiled; None if it can be.

        Raises:
            Unavailable: the process does not start.
        """
        with self._lock:
            if self._trial is None or not self._trial.is_alive:
                self._trial = _Trial(self._vocabulary, self._limits)
            try:
                answer = self._trial.ask(asdict(structure), self._limits.wall_seconds)
            except (EOFError, OSError, TimeoutError):
                code = self._trial.exit_code()
                self._trial = None
                return self._cause(code)
            error: str | None = answer.get("error")
            return error

    def _cause(self, code: int) -> str:
        limits = self._limits
        if code in (-signal.SIGXCPU, -signal.SIGKILL):
            return f"it takes more than {limits.cpu_seconds} s to compile"
        return f"it needs more than {limits.memory_mib} MiB or too deep a stack to compile"


class _Trial:
    """The process.

    Raises:
        Unavailable: it does not start.
    """

    def __init__(self, vocabulary: Vocabulary, limits: TrialLimits) -> None:
        self._connection, theirs = Pipe()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "quire.engine.grammar.trial", str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),),
                # Ctrl-C is for the process that owns it.
                start_new_session=True,
            )
        # Nothing is lost with it.
        weakref.finalize(self, _end, self._connection, self._process)
        try:
            self.ask({
                "tokens": [token.decode("latin-1") for token in vocabulary.tokens],
                "end_tokens": vocabulary.end_tokens,
                "max_bytes": limits.memory_mib * _MIB,
                "max_seconds": limits.cpu_seconds,
            }, limits.wall_seconds)  # fmt: skip
        except (EOFError, OSError, TimeoutError) as error:
            code = self.exit_code()
            raise Unavailable(f"the process that compiles grammars ended with {code} where it starts") from error

    @property
    def is_alive(self) -> bool:
        return self._process.poll() is None

    def ask(self, message: dict[str, Any], timeout: float) -> dict[str, Any]:
        """
        Raises:
            EOFError, OSError: the process is gone.
            TimeoutError: there was no answer in `timeout` seconds.
        """
        self._connection.send_bytes(json.dumps(message).encode())
        if not self._connection.poll(timeout):
            raise TimeoutError
        answer: dict[str, Any] = json.loads(self._connection.recv_bytes())
        return answer

    def exit_code(self) -> int:
        """Its exit code, or minus the signal that it died of; it is killed if it does not end."""
        try:
            self._process.wait(1.0)
        except subprocess.TimeoutExpired:
            self._process.kill()
        return self._process.wait()


def _end(connection: Connection, process: "subprocess.Popen[bytes]") -> None:
    connection.close()
    process.kill()
    process.wait()
