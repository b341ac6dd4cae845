"""Credentials of programs: `Authorization: Bearer tok_…`. Never a key in the URL."""

from __future__ import annotations

from drf_spectacular.extensions import OpenApiAuthenticationExtension
from rest_framework.authentication import BaseAuthentication
from rest_framework.exceptions import AuthenticationFailed
from rest_framework.request import Request

from accounts.models import User
from accounts.services import api_key_user

SCHEME = "bearer"


class ApiKeyAuthentication(BaseAuthentication):
    """Knows a program by its API key. Other schemes are left to the next class; a wrong key is a 401, not an anonymous visit."""

    def authenticate(self, request: Request) -> tuple[User, str] | None:
        scheme, _, secret = request.META.get("HTTP_AUTHORIZATION", "").partition(" ")
        if scheme.lower() != SCHEME:
            return None
        user = api_key_user(secret.strip())
        if user is None:
            raise AuthenticationFailed("This API key is not valid. `manage.py apikey create NAME` makes one.")
        return user, "api key"

    def authenticate_header(self, request: Request) -> str:
        return 'Bearer realm="tradingok"'


class ApiKeyScheme(OpenApiAuthenticationExtension):  # type: ignore[no-untyped-call]
    """How the OpenAPI document names it."""

    target_class = "accounts.api.authentication.ApiKeyAuthentication"
    name = "apiKey"

    def get_security_definition(self, auto_schema: object) -> dict[str, str]:
        return {"type": "http", "scheme": SCHEME, "bearerFormat": "tok_…"}
