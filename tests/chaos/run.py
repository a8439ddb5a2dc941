"""A whole run: services, load, faults."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from chaos.cluster import cluster
from chaos.fault import Kind
from chaos.load import Load
from chaos.questions import make_questions
from chaos.storm import Storm


@dataclass(frozen=True)
class Setup:
    """What a run is made of.

    Attributes:
        seed: of everything that is left to chance.
        num_blocks: of each executor's pool.
        num_askers: requests open at once.
        num_questions: different requests.
        has_structures: some ask for structured output, whose library takes its time to load.
    """

    seed: int = 0
    num_blocks: int = 600
    num_askers: int = 6
    num_questions: int = 28
    has_structures: bool = True


async def run(setup: Setup, kinds: Sequence[Kind], num_strikes: int, folder: Path) -> Storm:
    """The storm when it is over: books were sound then, and no process was left."""
    async with cluster(setup.num_blocks, folder) as running:
        questions = make_questions(setup.num_questions, setup.seed)
        if not setup.has_structures:
            questions = [each for each in questions if each.params.structured_output is None]
        load = Load(running, questions, setup.num_askers, setup.seed)
        storm = Storm(running, load, setup.seed)
        await load.learn()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(load.run())
            await storm.run(kinds, num_strikes)
            load.stop()
        storm.finish()
        await load.close()
    return storm
