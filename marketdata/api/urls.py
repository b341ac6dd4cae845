"""The market's REST paths, under /api/."""

from __future__ import annotations

from django.urls import path

from marketdata.api.chain import ChainDetailView, ChainHistoryView, ChainListView
from marketdata.api.ohlc import CandleView
from marketdata.api.parity import ParityView
from marketdata.api.stats import StatsView
from marketdata.api.status import BrokerStatusView, ContinuityView, GapView, MarketStatusView
from marketdata.api.ticks import LatestTicksView, TickHistoryView

urlpatterns = [
    path("broker-status", BrokerStatusView.as_view(), name="broker-status"),
    path("marketdata/ticks/latest/", LatestTicksView.as_view(), name="ticks-latest"),
    path("marketdata/ticks/", TickHistoryView.as_view(), name="ticks"),
    path("marketdata/ohlc/", CandleView.as_view(), name="ohlc"),
    path("marketdata/chain/", ChainListView.as_view(), name="chains"),
    path("marketdata/chain/<str:underlying>/", ChainDetailView.as_view(), name="chain"),
    path("marketdata/chain/<str:underlying>/history/", ChainHistoryView.as_view(), name="chain-history"),
    path("marketdata/stats/", StatsView.as_view(), name="stats"),
    path("marketdata/status/", MarketStatusView.as_view(), name="market-status"),
    path("marketdata/gaps/", GapView.as_view(), name="gaps"),
    path("marketdata/continuity/", ContinuityView.as_view(), name="continuity"),
    path("marketdata/parity/", ParityView.as_view(), name="parity"),
]
