"""Composition only: settings, processes, embedded servers. No app imports this package."""

from tradingok.celery import app as celery_app

__all__ = ["celery_app"]
