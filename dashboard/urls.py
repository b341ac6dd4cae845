"""The live page's address."""

from __future__ import annotations

from django.urls import path

from dashboard.views import page

urlpatterns = [path("", page, name="page")]
