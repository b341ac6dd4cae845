"""Cuts a full-mode `Feed` down to what a mode of the wire carries. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from broker.upstox import MarketDataFeedV3_pb2 as pb

MODES = ("ltpc", "option_greeks", "full", "full_d30")
"""Modes of a request. Source: FACTS §3.3."""


def cut(feed: pb.Feed, mode: str) -> pb.Feed | None:
    """The feed in one mode.

    Args:
        feed: in full_d5 form, possibly partial.
        mode: one of MODES.

    Returns:
        the same object in full mode; None when the mode has nothing to say (ltpc of a partial update without a price).
    """
    if mode == "full":
        return feed
    if mode == "full_d30":
        deep = pb.Feed()
        deep.CopyFrom(feed)
        deep.requestMode = pb.full_d30
        return deep
    full = feed.fullFeed
    if full.WhichOneof("FullFeedUnion") == "indexFF":
        # An index has neither depth nor greeks; what option_greeks gives for it is not documented (FACTS §7).
        return _ltpc(full.indexFF.ltpc) if full.indexFF.HasField("ltpc") else None
    market = full.marketFF
    if mode == "ltpc":
        return _ltpc(market.ltpc) if market.HasField("ltpc") else None
    first = pb.FirstLevelWithGreeks(vtt=market.vtt, oi=market.oi, iv=market.iv)
    if market.HasField("ltpc"):
        first.ltpc.CopyFrom(market.ltpc)
    if market.marketLevel.bidAskQuote:
        first.firstDepth.CopyFrom(market.marketLevel.bidAskQuote[0])
    if market.HasField("optionGreeks"):
        first.optionGreeks.CopyFrom(market.optionGreeks)
    return pb.Feed(firstLevelWithGreeks=first, requestMode=pb.option_greeks)


def _ltpc(ltpc: pb.LTPC) -> pb.Feed:
    return pb.Feed(ltpc=ltpc, requestMode=pb.ltpc)


def feed_frame(kind: pb.Type.ValueType, broker_ms: int, feeds: dict[str, pb.Feed]) -> pb.FeedResponse:
    """A frame of these feeds."""
    frame = pb.FeedResponse(type=kind, currentTs=broker_ms)
    for key, feed in feeds.items():
        frame.feeds[key].CopyFrom(feed)
    return frame


def market_info_frame(broker_ms: int, segments: Mapping[str, str], auctions: Mapping[str, tuple[str, int]]) -> pb.FeedResponse:
    """A market_info frame; `segments` is segment → MarketStatus name, `auctions` segment → status of its closing auction and since when."""
    frame = pb.FeedResponse(type=pb.market_info, currentTs=broker_ms)
    for segment, status in segments.items():
        frame.marketInfo.segmentStatus[segment] = pb.MarketStatus.Value(status)
    for segment, (status, since_ms) in auctions.items():
        frame.marketInfo.casMarketStatus[segment].CopyFrom(pb.StatusInfo(status=status, updatedTime=since_ms))
    return frame
