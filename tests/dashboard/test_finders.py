"""The chart library is served out of its package."""

from __future__ import annotations

from pathlib import Path

from django.contrib.staticfiles import finders

from dashboard.finders import ChartLibraryFinder


def test_the_library_is_found_under_its_address_and_nothing_else_is() -> None:
    path = finders.find("vendor/lightweight-charts.js")
    assert path is not None
    assert "TradingView Lightweight Charts" in Path(path).read_text()[:200]
    assert finders.find("vendor/another.js") is None
    assert finders.find("vendor/../lightweight-charts.js") is None


def test_collecting_takes_one_file_below_its_folder() -> None:
    [(name, storage)] = ChartLibraryFinder().list(None)
    assert (name, storage.prefix) == ("lightweight-charts.js", "vendor")
    assert storage.exists(name)
