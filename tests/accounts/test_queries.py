"""The look-ups of every request, explained by the real server: an index each, nothing scanned."""

from __future__ import annotations

import json
from typing import Any

import pytest
from django.db.models import QuerySet

from accounts.models import ApiKey, OneTimeToken, Session, User
from accounts.services import api_key_create

pytestmark = pytest.mark.django_db
ROWS = 50


def stages(plan: Any) -> set[str]:
    """Return the names of all stages anywhere in an explanation."""
    if isinstance(plan, list):
        return set().union(*map(stages, plan)) if plan else set()
    if not isinstance(plan, dict):
        return set()
    own = {plan["stage"]} if isinstance(plan.get("stage"), str) else set()
    return own | stages([value for value in plan.values() if isinstance(value, dict | list)])


def examined(plan: Any) -> int:
    """Return the largest count of documents that any part of an explanation says it read."""
    if isinstance(plan, list):
        return max(map(examined, plan), default=0)
    if not isinstance(plan, dict):
        return 0
    return max([int(plan.get("totalDocsExamined", 0)), *(examined(value) for value in plan.values())])


def explained(query: QuerySet[Any]) -> dict[str, Any]:
    plan: dict[str, Any] = json.loads(query.explain())
    return plan


@pytest.fixture
def user() -> User:
    users = [User.objects.create_user(f"user{number}") for number in range(ROWS)]
    for one in users:
        api_key_create(user=one, name="laptop")
        Session.objects.create(session_key=f"key{one.username}", session_data="", expire_date="2030-01-01T00:00:00Z")
    return users[ROWS // 2]


def test_each_look_up_of_credentials_reads_at_most_two_documents(user: User) -> None:
    digest = ApiKey.objects.get(user=user).pk
    looked_up = {
        "username": User.objects.filter(username=user.username),
        "user": User.objects.filter(pk=user.pk),
        "session": Session.objects.filter(session_key=f"key{user.username}", expire_date__gt="2026-01-01T00:00:00Z"),
        "key": ApiKey.objects.filter(pk=digest, revoked_at=None).select_related("user"),
        "own keys": ApiKey.objects.filter(user=user.pk).order_by("created_at"),
        "ticket": OneTimeToken.objects.filter(pk="x", kind="ticket", expires_at__gt="2026-01-01T00:00:00Z"),
        "old tickets": OneTimeToken.objects.filter(expires_at__lte="2026-01-01T00:00:00Z"),
    }
    for name, query in looked_up.items():
        plan = explained(query)
        assert "COLLSCAN" not in stages(plan), name
        assert stages(plan) & {"IDHACK", "IXSCAN"}, name
        assert examined(plan) <= 2, name
