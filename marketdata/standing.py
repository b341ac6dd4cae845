"""What a hub knows of the feed's subscription: what has left it, and what is demanded in vain and why. Pure: time is an argument."""

from __future__ import annotations

from collections.abc import Container, Mapping

LATE_SECONDS = 1.0
"""A quote that was under way when its instrument left may come so much later: it does not mean that the instrument is back."""
REFUSED_SECONDS = 15.0
"""The feed says each 5 s what it refuses; what it has not said for so long is not refused any more."""
EXPIRED, KEY = "expired", "key"
REASONS = {
    EXPIRED: "Trading in it has ended.",
    KEY: "It has another key now.",
    "limit": "The broker's limit is reached: what the rules want comes first. It is followed again when there is room.",
    "rules": "The rules do not want it any more.",
    "demand": "Nobody was known to want it.",
}
"""Why something left, as the feed's word → for a person."""


class Standing:
    """What is known of instruments that are not followed.

    Attributes:
        unfollowed: what has left though trading in it goes on, and no quote of it came since: its last quote tells nothing of now, so
            nothing is counted from it. The same set always; read from any thread. What expired is not in it: that is the closing picture.
    """

    def __init__(self) -> None:
        self.unfollowed: set[int] = set()
        self._left_at: dict[int, float] = {}
        self._refused: dict[int, tuple[float, str]] = {}

    def leave(self, instrument: int, why: str, now: float) -> None:
        """Note that the feed follows an instrument no more. `why`: the feed's word."""
        self._left_at[instrument] = now
        if why != EXPIRED:
            self.unfollowed.add(instrument)

    def refuse(self, refused: Mapping[int, str], now: float) -> None:
        """Note what the feed does not follow though clients want it, and why."""
        self._refused |= {instrument: (now, reason) for instrument, reason in refused.items()}

    def has_left(self, instrument: int) -> bool:
        """Whether an instrument has left, and no quote of it came since."""
        return instrument in self._left_at

    def arrive(self, instrument: int, now: float) -> bool:
        """Note a new quote. False: it was on its way when the instrument left."""
        if now - self._left_at.get(instrument, float("-inf")) < LATE_SECONDS:
            return False
        self._left_at.pop(instrument, None)
        self.unfollowed.discard(instrument)
        self._refused.pop(instrument, None)
        return True

    def refusal(self, instrument: int, now: float) -> str | None:
        """Return why an instrument is demanded in vain; None when the feed has not said so lately."""
        told_at, reason = self._refused.get(instrument, (float("-inf"), ""))
        return reason if now - told_at < REFUSED_SECONDS else None

    def forget(self, known: Container[int], now: float) -> None:
        """Drop what is told no more, and what left and has no quote any more."""
        self._left_at = {instrument: at for instrument, at in self._left_at.items() if instrument in known}
        self.unfollowed.intersection_update(self._left_at)
        self._refused = {instrument: told for instrument, told in self._refused.items() if now - told[0] < REFUSED_SECONDS}
