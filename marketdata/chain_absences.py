"""What the followers of option chains are told of contracts that nothing comes of. Pure: time is an argument.

A channel's followers are told a number: how many of the instruments that it wants are missing. Each hears of it when it is another than
what that client was told last, so at the most once a look.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Container, Iterable

from marketdata.chain_series import ChainSeries
from marketdata.outbox import Outbox
from marketdata.wire import chain_subscription_push


class ChainAbsences:
    """What is missing of the chains of one hub, and who knows.

    Args:
        entries: instruments of which a quote is known; read, never changed.
        unfollowed: those of which it counts no more; the same.
        patience: what is wanted for so long without a quote is missing · seconds.
    """

    def __init__(self, entries: Container[int], unfollowed: Container[int], patience: float) -> None:
        self._entries, self._unfollowed, self._patience = entries, unfollowed, patience
        self._silent_since: dict[int, float] = {}
        self._told: dict[ChainSeries, dict[Outbox, int]] = {}

    def tell(
        self,
        followed: Iterable[tuple[ChainSeries, Collection[int], Iterable[Outbox]]],
        refusal: Callable[[int], str | None],
        silence: str,
        now: float,
    ) -> set[Outbox]:
        """Look once; return who has been given something.

        Args:
            followed: each channel, the instruments that it wants from the feed, its followers.
            refusal: why the feed does not follow an instrument; None where it does, as far as is known.
            silence: why nothing comes of what it does follow.
            now: monotonic.
        """
        silent_since, told_before = self._silent_since, self._told
        self._silent_since, self._told = {}, {}
        touched = set()
        for series, wanted, outboxes in followed:
            reasons: Counter[str] = Counter()
            for instrument in wanted:
                reason = refusal(instrument)
                if reason is None and (instrument not in self._entries or instrument in self._unfollowed):
                    since = self._silent_since[instrument] = silent_since.get(instrument, now)
                    reason = silence if now - since >= self._patience else None
                if reason is not None:
                    reasons[reason] += 1
            missing, known = reasons.total(), told_before.get(series, {})
            unaware = {outbox for outbox in outboxes if known.get(outbox, 0) != missing}
            self._told[series] = dict.fromkeys(outboxes, missing)
            if unaware:
                push = _push(series.channel.name, reasons, len(wanted))
                for outbox in unaware:
                    outbox.push(push)
                touched |= unaware
        return touched


def _push(channel: str, reasons: Counter[str], wanted: int) -> bytes:
    missing = reasons.total()
    most = reasons.most_common(1)
    return chain_subscription_push(channel, missing, wanted, f"{missing} of {wanted}: {most[0][0]}" if most else None)
