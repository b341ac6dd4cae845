"""Fixtures of the API's tests."""

from tests.marketdata.api.fixtures import client, reliance

__all__ = ["client", "reliance"]
