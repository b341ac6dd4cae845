"""How fast one client takes what it is sent. Pure: the time is an argument."""

from __future__ import annotations

from collections import deque

LATE_SECONDS = 2


class ReadingPace:
    """Looked at about once a second. *Late* is who has more bytes waiting than were handed over in the last LATE_SECONDS.

    Attributes:
        sent_at: when something was last handed over · monotonic seconds, as are the others.
        taken_at: when it last took a byte, or had nothing to take.
        in_time_at: when it was last not late.
    """

    def __init__(self, now: float) -> None:
        self.sent_at = self.taken_at = self.in_time_at = now
        self._sent_before: deque[int] = deque([0], maxlen=LATE_SECONDS)
        self._taken_before = 0

    def observe(self, now: float, sent: int, backlog: int) -> None:
        """Take a look.

        Args:
            now: monotonic seconds.
            sent: bytes handed over so far.
            backlog: bytes of them that the client's machine has not taken yet.
        """
        if sent != self._sent_before[-1]:
            self.sent_at = now
        if not backlog or sent - backlog > self._taken_before:
            self.taken_at = now
        if backlog <= sent - self._sent_before[0]:
            self.in_time_at = now
        self._taken_before = sent - backlog
        self._sent_before.append(sent)
