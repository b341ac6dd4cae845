"""What the clients of one hub are told of instruments beside their quotes: gaps, what the feed follows no more, what it follows in vain.

Nothing here wakes a client: who has been given something is returned.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial

from marketdata.bus import Notice, UniverseNotice
from marketdata.chain_absences import ChainAbsences
from marketdata.chain_channels import ChainChannels
from marketdata.domain.feed_status import FeedState
from marketdata.domain.gap import GapNotice
from marketdata.followers import TOLD, Followers
from marketdata.hub_client import Client
from marketdata.ohlc_channels import OhlcChannels
from marketdata.outbox import Outbox
from marketdata.standing import EXPIRED, KEY, REASONS, Standing
from marketdata.wire import FULL, LTPC, QuoteEntry, gap_push, subscription_push, universe_push

NO_DATA_SECONDS = 10.0
"""A demanded instrument that has no quote after so long is told to be `no_data`."""


class HubNotices:
    """Who is to be told of what.

    Args:
        clients: outbox → connection; read, never changed.
        entries: instrument id → newest quote; the same.
        followers, charts, chains: who follows what.
        standing: what is known of what the feed does not follow; changed here alone.
        unsubscribe: ends what a client follows, for ever.
    """

    def __init__(
        self,
        clients: Mapping[Outbox, Client],
        entries: Mapping[int, QuoteEntry],
        followers: Followers,
        charts: OhlcChannels,
        chains: ChainChannels,
        standing: Standing,
        unsubscribe: Callable[[Client, int], bool],
    ) -> None:
        self._clients, self._entries, self._followers = clients, entries, followers
        self._charts, self._chains, self._unsubscribe = charts, chains, unsubscribe
        self._standing = standing
        self._absences = ChainAbsences(entries, standing.unfollowed, NO_DATA_SECONDS)

    # --- what the feed says ---------------------------------------------------------------------------------------------
    def take(self, notice: Notice, now: float) -> set[Outbox]:
        """Tell gaps, what entered and left, and what is refused."""
        touched: set[Outbox] = set()
        for gap in notice.gaps:
            touched |= self._tell_gap(gap)
        if notice.universe is not None:
            touched |= self._tell_universe(notice.universe, now)
        if notice.refused:
            self._standing.refuse(notice.refused, now)
            touched |= self._tell_refused(notice.refused, now)
        return touched

    def _tell_gap(self, gap: GapNotice) -> set[Outbox]:
        """Tell a gap to who follows an instrument in it, and to who asked for all; one of a whole shard to everybody."""
        concerned, touched = set(gap.instruments), set()
        for outbox in self._clients:
            followed = (outbox.modes.keys() & concerned).union(
                (series.instrument for series in outbox.charts if series.instrument in concerned), self._chains.concerned(outbox, concerned)
            )
            if followed or outbox.all_gaps or not concerned:
                outbox.push(gap_push(gap, sorted(map(self._key_of, followed)) if concerned else None))
                touched.add(outbox)
        return touched

    def _tell_universe(self, universe: UniverseNotice, now: float) -> set[Outbox]:
        """Tell who follows what left, and the whole to who named `market`."""
        touched: set[Outbox] = set()
        for key, (instrument, why, follows) in universe.left.items():
            if why != KEY:
                self.leave(instrument, why, now)
            status = EXPIRED if why == EXPIRED else "removed"
            push = subscription_push(key, instrument, status, REASONS.get(why, why), follows or None)
            for outbox in [*self._followers.of(instrument, LTPC), *self._followers.of(instrument, FULL)]:
                if why == EXPIRED:
                    self._unsubscribe(self._clients[outbox], instrument)
                elif why != KEY:
                    self._followers.wait(outbox, instrument, key, TOLD)  # it may come back
                outbox.notice(instrument, push)
                touched.add(outbox)
            if why == EXPIRED and self._followers.anyone(instrument):
                touched |= self._tell_charts(instrument, push)
        left = {key: why for key, (_, why, _) in universe.left.items()}
        whole = universe_push(universe.at_ms, universe.causes, universe.entered, left)
        for outbox in self._clients:
            if outbox.all_gaps:
                outbox.push(whole)
                touched.add(outbox)
        return touched

    def _tell_charts(self, instrument: int, push: bytes) -> set[Outbox]:
        """Tell who has a chart of an instrument and does not follow it otherwise; the chart stays, for its history."""
        touched = {outbox for outbox in self._clients if any(series.instrument == instrument for series in outbox.charts)}
        for outbox in touched:
            outbox.notice(instrument, push)
        return touched

    def _tell_refused(self, instruments: Iterable[int], now: float) -> set[Outbox]:
        """Tell who follows these that nothing comes, and why, once. They may have had it: what says that it left may have been lost."""
        touched: set[Outbox] = set()
        for instrument in instruments:
            if self._followers.anyone(instrument):
                for outbox, key in self._followers.untold(instrument, self._key_of(instrument)):
                    reason = self._standing.refusal(instrument, now)
                    outbox.notice(instrument, subscription_push(key, instrument, "no_data", reason))
                    touched.add(outbox)
        return touched

    def _key_of(self, instrument: int) -> str:
        entry = self._entries.get(instrument)
        return entry.key if entry is not None else self._chains.key_of(instrument) or self._charts.key_of(instrument)

    # --- who waits ------------------------------------------------------------------------------------------------------
    def has_left(self, instrument: int) -> bool:
        """Whether the feed follows an instrument no more, and no quote of it came since."""
        return self._standing.has_left(instrument)

    def leave(self, instrument: int, why: str, now: float) -> None:
        """Note that the feed follows an instrument no more; chains show it at their next turn. `why`: the feed's word."""
        self._standing.leave(instrument, why, now)
        self._chains.mark(instrument)

    def wait(self, outbox: Outbox, instrument: int, key: str, now: float) -> None:
        """Have a client told when the first quote comes, or why none does: with the next look where that is known."""
        is_refused = self._standing.refusal(instrument, now) is not None
        self._followers.wait(outbox, instrument, key, now if is_refused else now + NO_DATA_SECONDS)

    def arrive(self, entry: QuoteEntry, now: float) -> None:
        """Tell who waited for a quote, before they get it: this closes their windows."""
        if self._standing.arrive(entry.instrument, now):
            for outbox in self._followers.arrived(entry.instrument):
                outbox.notice(entry.instrument, subscription_push(entry.key, entry.instrument, "active", None))

    def is_awaited(self, instrument: int) -> bool:
        """Whether a quote of an instrument would be news to `arrive`."""
        return self._followers.is_awaited(instrument) or self._standing.has_left(instrument)

    def tell_late(self, state: str, now: float) -> set[Outbox]:
        """Tell who has waited for too long that nothing comes. `state`: the feed's, the reason where there is no other."""
        silent = "The broker has sent nothing for it yet." if state == FeedState.LIVE else f"The feed is {state}."
        touched: set[Outbox] = set()
        for outbox, instrument, key in self._followers.late(now):
            reason = self._standing.refusal(instrument, now) or silent
            outbox.notice(instrument, subscription_push(key, instrument, "no_data", reason))
            touched.add(outbox)
        return touched | self._absences.tell(self._chains.followed(), partial(self._standing.refusal, now=now), silent, now)

    def forget(self, now: float) -> None:
        """Drop what nobody can ask for any more."""
        self._standing.forget(self._entries, now)
