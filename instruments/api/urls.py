"""Instruments, under /api/."""

from __future__ import annotations

from django.urls import include, path
from rest_framework.routers import SimpleRouter

from instruments.api.rules import SubscriptionViewSet
from instruments.api.views import ExpiriesView, InstrumentViewSet

router = SimpleRouter()
router.register("marketdata/instruments", InstrumentViewSet, basename="instrument")
router.register("subscriptions", SubscriptionViewSet, basename="subscription")

urlpatterns = [
    path("marketdata/underlyings/<str:symbol>/expiries/", ExpiriesView.as_view(), name="underlying-expiries"),
    path("", include(router.urls)),
]
