"""Looks at every state that a model can reach, breadth first, so that the counterexample is a shortest one."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Generic, TypeVar

S = TypeVar("S")


@dataclass(frozen=True)
class Found(Generic[S]):
    """What a search came to.

    Attributes:
        num_states: states that were reached.
        num_steps: actions of the longest of all shortest ways to a state.
        wrong: the invariant that does not hold in the last state of `trace`; "": all hold in every state.
        trace: names of the actions that lead there.
    """

    num_states: int
    num_steps: int
    wrong: str = ""
    trace: tuple[str, ...] = ()

    def __str__(self) -> str:
        if not self.wrong:
            return f"{self.num_states} states within {self.num_steps} actions, no invariant is broken"
        lines = (f"{number:3} {action}" for number, action in enumerate(self.trace, 1))
        return "\n".join((f"broken after {len(self.trace)} actions: {self.wrong}", *lines))


def search(
    start: S, actions: Callable[[S], Iterable[tuple[str, S]]], wrong: Callable[[S], str], max_states: int
) -> Found[S]:
    """Follows every action from every state, until an invariant is broken or no new state is left.

    Args:
        start: hashable, as are all states.
        actions: those that are possible in a state, with the state that each leads to.
        wrong: the invariant that a state breaks; "": none.

    Raises:
        MemoryError: there are more than `max_states` states.
    """
    came_from: dict[S, tuple[S, str] | None] = {start: None}
    layer, num_steps = [start], 0
    while layer:
        following: list[S] = []
        for state in layer:
            for action, after in actions(state):
                if after in came_from:
                    continue
                came_from[after] = state, action
                if broken := wrong(after):
                    return Found(len(came_from), num_steps + 1, broken, _trace(came_from, after))
                following.append(after)
        if len(came_from) > max_states:
            raise MemoryError(
                f"{len(came_from)} states after {num_steps + 1} actions, at most {max_states} are allowed"
            )
        layer = following
        num_steps += bool(following)
    return Found(len(came_from), num_steps)


def _trace(came_from: dict[S, tuple[S, str] | None], state: S) -> tuple[str, ...]:
    trace: list[str] = []
    while (step := came_from[state]) is not None:
        state, action = step
        trace.append(action)
    return tuple(reversed(trace))
