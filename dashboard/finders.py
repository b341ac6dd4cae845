"""Serves the chart library out of the installed package `litecharts`, so that nothing of it is copied into the repository."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from django.contrib.staticfiles.finders import BaseFinder
from django.core.files.storage import FileSystemStorage

FILE = "lightweight-charts.js"
PREFIX = "vendor"


class ChartLibraryFinder(BaseFinder):
    """Finds `vendor/lightweight-charts.js` (TradingView, Apache-2.0; 5.1, in PyPI litecharts 0.2.0)."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        spec = find_spec("litecharts")
        self.folder = Path(spec.origin).parent / "js" if spec and spec.origin else None

    def find(self, path: str, find_all: bool = False, **kwargs: Any) -> Any:
        """Return the file's path, or [] where it is not ours."""
        if self.folder is None or path != f"{PREFIX}/{FILE}":
            return []
        found = str(self.folder / FILE)
        return [found] if find_all else found

    def list(self, ignore_patterns: Iterable[str] | None) -> Iterable[Any]:
        """Yield the one file for collectstatic."""
        if self.folder is not None:
            storage = FileSystemStorage(location=self.folder)
            storage.prefix = PREFIX  # type: ignore[attr-defined]
            yield FILE, storage
