"""Every HTTP path of the project."""

from __future__ import annotations

from django.contrib import admin
from django.urls import include, path

urlpatterns = [
    path("admin/", admin.site.urls),
    path("", include("accounts.urls")),
    path("api/", include("accounts.api.urls")),
]

handler400 = "accounts.api.problems.bad_request"
handler403 = "accounts.api.problems.permission_denied"
handler404 = "accounts.api.problems.not_found"
handler500 = "accounts.api.problems.server_error"
