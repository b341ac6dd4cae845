"""Who takes nothing, who is late, who is in time."""

from __future__ import annotations

import pytest

from marketdata.reading_pace import ReadingPace


def after(*looks: tuple[int, int]) -> ReadingPace:
    """Return the pace after a look a second, from second 1 on; each says what was sent so far and what waits."""
    pace = ReadingPace(0.0)
    for now, (sent, backlog) in enumerate(looks, 1):
        pace.observe(float(now), sent, backlog)
    return pace


@pytest.mark.parametrize(
    ("looks", "sent_at", "taken_at", "in_time_at"),
    [
        ([(0, 0), (0, 0), (0, 0)], 0.0, 3.0, 3.0),  # nothing to take
        ([(100, 0), (200, 0), (300, 0)], 3.0, 3.0, 3.0),  # takes all
        ([(100, 100), (200, 200), (200, 200)], 2.0, 0.0, 2.0),  # takes nothing: what waits is still what the last two seconds gave
        ([(100, 100), (200, 200), (200, 200), (200, 200), (200, 200)], 2.0, 0.0, 2.0),
        ([(100, 50), (200, 140), (300, 230), (400, 320), (500, 410)], 5.0, 5.0, 2.0),  # takes ten bytes a second: late, not deaf
        ([(100, 100), (200, 200), (300, 300), (300, 0)], 3.0, 4.0, 4.0),  # was late, and has caught up
    ],
)
def test_the_clocks_stand_where_the_client_does(looks: list[tuple[int, int]], sent_at: float, taken_at: float, in_time_at: float) -> None:
    pace = after(*looks)
    assert (pace.sent_at, pace.taken_at, pace.in_time_at) == (sent_at, taken_at, in_time_at)
