"""Half an hour with cancels and faults: nothing is lost, nothing differs, and the books are sound."""

import os
from pathlib import Path

import pytest

from chaos.soak import soak


@pytest.mark.long
@pytest.mark.timeout(0)
async def test_a_soak_leaves_sound_books(tmp_path: Path) -> None:
    minutes = float(os.environ.get("QUIRE_SOAK_MINUTES", "30"))
    storm, samples = await soak(minutes, seed=0, folder=tmp_path)
    assert storm.total.num_faults > 0
    assert (storm.total.num_lost, storm.total.num_different, storm.total.audit) == (0, 0, []), storm.total.messages
    assert samples
