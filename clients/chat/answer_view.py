"""An answer on the terminal while it is written: Markdown, drawn as it grows."""

from types import TracebackType
from typing import Self

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.live import Live
from rich.markdown import Markdown
from rich.segment import Segment


def unfinished_from(text: str) -> int:
    """Where the last block of a Markdown text begins: what comes may still change it, but none of those before it.

    A line that is not complete begins no block: "2" may yet become "2. two", which goes on with a list.

    >>> unfinished_from("One.\\n\\n- two\\n- thr")
    6
    """
    lines = text.splitlines(keepends=True)
    if lines and not lines[-1].endswith("\n"):
        lines.pop()
    starts = [token.map[0] for token in Markdown("".join(lines)).parsed if token.level == 0 and token.map]
    return len("".join(lines[: starts[-1]])) if starts else 0


class AnswerView:
    """Prints finished blocks for good, and draws the last one anew whenever it grows.

    Nothing but this may print while it is open.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live: Live | None = None
        self._rest = ""
        self._is_reasoning = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end_reasoning()
        if self._live is not None:
            self._live.stop()
            self._console.print(Markdown(self._rest))

    def reason(self, text: str) -> None:
        """More of what the model thinks before it answers."""
        if text:
            self._is_reasoning = True
            self._console.print(text, style="dim", end="", markup=False, highlight=False, soft_wrap=True)

    def push(self, text: str) -> None:
        """More of the answer."""
        if not text:
            return
        self._end_reasoning()
        if self._live is None:
            # The last block is erased at the end and printed whole.
            self._live = Live(console=self._console, transient=True, refresh_per_second=10)
            self._live.start()
        self._rest += text
        start = unfinished_from(self._rest)
        finished, self._rest = self._rest[:start], self._rest[start:]
        # Printing draws what is live anew below: it must not be the old block.
        self._live.update(_Tail(Markdown(self._rest)))
        if finished:
            self._console.print(Markdown(finished))
            self._console.print()

    def _end_reasoning(self) -> None:
        if self._is_reasoning:
            self._is_reasoning = False
            self._console.print("\n")


class _Tail:
    """The last lines of something: what is higher than the terminal could not be drawn anew."""

    def __init__(self, whole: RenderableType) -> None:
        self._whole = whole

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        lines = console.render_lines(self._whole, options.update(height=None), pad=False)
        for line in lines[-max(1, console.height - 1) :]:
            yield from line
            yield Segment.line()
