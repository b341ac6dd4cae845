"""Sessions kept in MongoDB under their own key as `_id`. Django's own model keeps the key in a unique field, whose partial
index equality look-ups do not use: every request of a signed-in user would scan the collection."""

from __future__ import annotations

from typing import Any

from django.apps import apps
from django.contrib.sessions.backends.db import SessionStore as DatabaseSessionStore


class SessionStore(DatabaseSessionStore):
    """Django's database store over `accounts.models.Session`. SESSION_ENGINE names this module."""

    @classmethod
    def get_model_class(cls) -> Any:
        """Return the model, by name: models.py imports this module."""
        return apps.get_model("accounts", "Session")
