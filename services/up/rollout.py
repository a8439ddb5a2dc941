"""Every service of a stack is replaced, one at a time, while requests go on."""

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import suppress
from typing import Any, Final

from pydantic import ValidationError

from quire.engine.api.errors import QuireError
from quire.engine.config import mistakes
from quire.services.common.first_of import first_of
from quire.services.common.notify import VARIABLE
from quire.services.up.process import Child
from quire.services.up.programs import FRONTEND, Programs
from quire.services.up.ready import Notices, leader, until_answers, until_led
from quire.services.up.settings import UpSettings
from quire.services.up.stack import Stack, described

# What a running stack cannot change: where its services are, and how many.
FIXED: Final = (
    "redis", "host", "frontend_port", "http_port", "scheduler_port", "standby", "executor_port", "num_executors",
    "spare_executors", "metrics_port", "control",
)  # fmt: skip


class RolloutError(QuireError):
    """A service could not be replaced; those behind it were left as they are."""


class Rollout:
    """One of a stack that runs.

    Args:
        changes: settings of `quire up` that its services get; those that are not named stay.
        wait_seconds: for each service to serve.
        allows_pause: replace also what there is only one of.

    Attributes:
        programs: that the services are from then on.
    """

    def __init__(self, stack: Stack, changes: dict[str, Any], wait_seconds: float, allows_pause: bool) -> None:
        self._stack = stack
        self._settings = _changed(stack.settings, changes)
        self.programs = Programs(self._settings, stack.places)
        self._wait_seconds = wait_seconds
        self._allows_pause = allows_pause

    async def run(self) -> AsyncGenerator[str, None]:
        """A line for each service that was replaced: the standby, the leader, executors, the frontend.

        Raises:
            RolloutError: nothing was replaced, or one could not be, as the message says.
        """
        if not self._allows_pause:
            self._check_spares()
        order = [*await self._schedulers(), *self.programs.executors, *self.programs.spares, FRONTEND]
        for index, name in enumerate(order, 1):
            began = time.monotonic()
            try:
                await self._replace(name)
            except RolloutError as error:
                left = ", ".join(order[index:])
                raise RolloutError(f"{error}{f'; left as they are: {left}' if left else ''}") from error
            yield f"{name}: replaced in {time.monotonic() - began:.1f} s"
        self._stack.change(self._settings)

    def _check_spares(self) -> None:
        alone = [
            f"{names[0]} (--{flag})"
            for names, flag in (
                (self.programs.schedulers, "standby"),
                ([*self.programs.executors, *self.programs.spares], "num-executors 2"),
            )
            if len(names) == 1
        ]
        if alone:
            raise RolloutError(
                f"there is only one {' and one '.join(alone)}: requests would fail while it starts; start the stack "
                "with what stands in brackets, or give --allow-pause"
            )

    async def _schedulers(self) -> list[str]:
        """Their names, the leader's last."""
        leads = await leader(self._stack.places.schedulers)
        pairs = zip(self.programs.schedulers, self._stack.places.schedulers, strict=True)
        return [name for name, _ in sorted(pairs, key=lambda pair: pair[1] == leads)]

    async def _replace(self, name: str) -> None:
        children = self._stack.children
        place = next(i for i, child in enumerate(children) if child.name == name)
        async with self._stack.changing[place]:
            replace = self._beside if name == FRONTEND else self._behind
            children[place] = await replace(children[place], place)

    async def _beside(self, old: Child, place: int) -> Child:
        """The new process serves before the old one is asked to end."""
        with Notices() as notices:
            program = self.programs.of(old.name)
            new = await Child.start(program._replace(secrets={**program.secrets, VARIABLE: notices.place}))
            if fault := await self._fault(new, notices.of(self._settings.frontend_workers)):
                await new.stop(self._stack.stop_seconds)
                raise RolloutError(f"{fault}; the one before goes on")
        # From here on the new one is looked after, whatever becomes of the old one.
        self._stack.children[place] = new
        await old.stop(self._stack.stop_seconds)
        return new

    async def _behind(self, old: Child, place: int) -> Child:
        """The new process has the old one's port; others work meanwhile."""
        await old.stop(self._stack.stop_seconds)
        new = await Child.start(self.programs.of(old.name))
        self._stack.children[place] = new
        if fault := await self._fault(new, self._whole(new)):
            await new.stop(self._stack.stop_seconds)
            self._stack.children[place] = await Child.start(old.program)
            raise RolloutError(f"{fault}; it is started again as it was before")
        return new

    async def _whole(self, new: Child) -> None:
        await until_answers(new.program.address)
        places = self._stack.places
        await until_led(places.schedulers, len(places.executors) + len(places.spares))

    async def _fault(self, new: Child, ready: Any) -> str:
        """Why it does not serve; "": it does."""

        async def serve() -> str:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._wait_seconds):
                    await ready
                    return ""
            return f"{new.name} does not serve within {self._wait_seconds:g} s"

        async def end() -> str:
            code = await new.wait()
            return f"{new.name} {described(code)}: {new.last_line}"

        return await first_of(serve(), end())


def _changed(settings: UpSettings, changes: dict[str, Any]) -> UpSettings:
    """
    Raises:
        RolloutError: a setting cannot be changed, or has a wrong value.
    """
    before = settings.model_dump(mode="json")
    for name in FIXED:
        if name in changes and changes[name] != before[name]:
            raise RolloutError(
                f"{name}: must stay {before[name]!r} as long as the stack runs, got {changes[name]!r}; nothing was "
                "replaced"
            )
    given = settings.model_dump(mode="json", exclude_unset=True)
    merged = {**given, **changes}
    for group in ("executor", "scheduler"):
        merged[group] = {**given.get(group, {}), **changes.get(group, {})}
    try:
        return UpSettings.model_validate(merged)
    except ValidationError as error:
        raise RolloutError(f"{mistakes(error)}; nothing was replaced") from error
