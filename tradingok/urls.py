"""Every HTTP path of the project."""

from __future__ import annotations

from django.contrib import admin
from django.urls import URLPattern, URLResolver, include, path
from drf_spectacular.views import SpectacularAPIView, SpectacularSwaggerView

from accounts.views import SignInView, SignOutView
from tradingok.api_root import ApiRootView
from tradingok.health import HealthView, live, ready
from tradingok.metrics import MetricsView

Routes = list[URLPattern | URLResolver]

api: Routes = [
    path("", ApiRootView.as_view(), name="api-root"),
    path("health", HealthView.as_view(), name="health"),
    path("health/live", live, name="health-live"),
    path("health/ready", ready, name="health-ready"),
    path("schema/", SpectacularAPIView.as_view(), name="schema"),
    path("docs/", SpectacularSwaggerView.as_view(url_name="schema"), name="docs"),
    path("", include("instruments.api.urls")),
    path("", include("instruments.api.urls")),
    path("", include("marketdata.api.urls")),
    path("", include("accounts.api.urls")),
]

# The names under which the browsable API looks for "log in" and "log out".
browsable_api: Routes = [
    path("signin/", SignInView.as_view(), name="login"),
    path("signout/", SignOutView.as_view(), name="logout"),
]

urlpatterns = [
    path("admin/", admin.site.urls),
    path("api/", include(api)),
    path("udf/", include("marketdata.api.udf")),
    path("metrics", MetricsView.as_view(), name="metrics"),
    path("", include("accounts.urls")),
    path("", include((browsable_api, "rest_framework"))),
    path("", include("dashboard.urls")),
]

handler400 = "accounts.api.problems.bad_request"
handler403 = "accounts.api.problems.permission_denied"
handler404 = "accounts.api.problems.not_found"
handler500 = "accounts.api.problems.server_error"
