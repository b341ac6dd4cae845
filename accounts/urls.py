"""Pages of signing in and out."""

from __future__ import annotations

from django.urls import path

from accounts.views import SignInView, SignOutView, sign_in_by_link

urlpatterns = [
    path("signin/", SignInView.as_view(), name="signin"),
    path("signin/<str:secret>/", sign_in_by_link, name="signin-link"),
    path("signout/", SignOutView.as_view(), name="signout"),
]
