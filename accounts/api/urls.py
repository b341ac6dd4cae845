"""Credentials, under /api/."""

from __future__ import annotations

from django.urls import include, path
from rest_framework.routers import SimpleRouter

from accounts.api.views import ApiKeyViewSet, TicketView

router = SimpleRouter()
router.register("keys", ApiKeyViewSet, basename="key")

urlpatterns = [
    path("ws-tickets", TicketView.as_view(), name="ws-tickets"),
    path("", include(router.urls)),
]
