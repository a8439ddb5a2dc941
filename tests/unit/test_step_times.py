"""How long a step may take before it counts as stuck: measured by its size."""

from quire.engine.step_times import FIRST_SECONDS, FIRST_SECONDS_PER_TOKEN, MARGIN, UNSEEN_MARGIN, StepTimes


def test_the_first_step_may_compile_what_it_needs_and_take_a_second_for_each_token() -> None:
    assert StepTimes().expected(8192) == FIRST_SECONDS + 8192 * FIRST_SECONDS_PER_TOKEN


def test_a_step_may_take_longer_than_others_of_its_size() -> None:
    times = StepTimes()
    times.add(300, 2.0)
    assert times.expected(256) == times.expected(511) == MARGIN * 2.0


def test_a_smaller_one_may_take_as_long_as_the_next_size_that_was_seen() -> None:
    times = StepTimes()
    times.add(300, 2.0)
    times.add(9000, 50.0)
    assert times.expected(1) == MARGIN * 2.0
    assert times.expected(1000) == MARGIN * 50.0


def test_a_larger_one_may_take_more_for_each_token() -> None:
    times = StepTimes()
    times.add(1, 0.01)
    assert times.expected(8192) == UNSEEN_MARGIN * 0.01 * 8192


def test_one_slow_step_counts_less_and_less() -> None:
    times = StepTimes()
    times.add(1, 100.0)
    for _ in range(400):
        times.add(1, 0.01)
    assert times.expected(1) == MARGIN * 0.01


def test_steps_that_grow_slower_with_their_context_are_expected_to() -> None:
    """A prompt of 128k tokens in chunks of 512: attention takes longer from chunk to chunk."""
    times = StepTimes()
    for chunk in range(256):
        seconds = 0.1 + 0.05 * chunk
        assert times.expected(512) >= seconds
        times.add(512, seconds)
