"""Credentials over REST: one's own API keys, and WebSocket tickets."""

from __future__ import annotations

from datetime import datetime
from typing import cast

from django.db.models import QuerySet
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import extend_schema, extend_schema_field
from rest_framework import mixins, serializers, viewsets
from rest_framework.authentication import SessionAuthentication
from rest_framework.permissions import SAFE_METHODS, BasePermission
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.status import HTTP_201_CREATED
from rest_framework.views import APIView

from accounts.models import ApiKey, User
from accounts.services import TICKET_SECONDS, api_key_create, api_key_revoke, digest_of, ticket_create

NO_STORE = {"Cache-Control": "no-store"}
"""For answers that carry a secret."""


class SignedInToChange(BasePermission):
    """Lets only a signed-in session make and end keys: a key that leaked must not be able to leave another behind."""

    message = "Sign in to do this: an API key cannot make or end keys."

    def has_permission(self, request: Request, view: APIView) -> bool:
        return request.method in SAFE_METHODS or isinstance(request.successful_authenticator, SessionAuthentication)


@extend_schema_field(OpenApiTypes.INT64)
class EpochField(serializers.ReadOnlyField):
    """A moment as epoch milliseconds, UTC."""

    def to_representation(self, value: datetime) -> int:
        return round(value.timestamp() * 1000)


class ApiKeySerializer(serializers.ModelSerializer[ApiKey]):
    """One key. `secret` is there only in the answer that made it."""

    id = serializers.CharField(source="digest", read_only=True, help_text="SHA-256 of the secret: names the key, opens nothing.")
    created_ms = EpochField(source="created_at", help_text="ms UTC")
    last_used_ms = EpochField(source="last_used_at", allow_null=True, help_text="ms UTC, to the minute; null: never.")
    revoked_ms = EpochField(source="revoked_at", allow_null=True, help_text="ms UTC; null: it works.")
    secret = serializers.SerializerMethodField(help_text="Shown once, when the key is made.")

    class Meta:
        model = ApiKey
        fields = ["id", "name", "hint", "created_ms", "last_used_ms", "revoked_ms", "secret"]
        read_only_fields = ["hint"]

    def get_secret(self, key: ApiKey) -> str | None:
        return cast(str | None, self.context.get("secret"))


class ApiKeyViewSet(mixins.ListModelMixin, mixins.CreateModelMixin, mixins.DestroyModelMixin, viewsets.GenericViewSet[ApiKey]):
    """One's own API keys: `Authorization: Bearer tok_…`. The secret is shown once, in the answer that makes the key; deleting revokes."""

    serializer_class = ApiKeySerializer
    permission_classes = [*APIView.permission_classes, SignedInToChange]
    queryset = ApiKey.objects.none()
    lookup_value_regex = "[0-9a-f]{64}"

    def get_queryset(self) -> QuerySet[ApiKey]:
        return ApiKey.objects.filter(user=self.request.user.pk)

    def list(self, request: Request, *args: object, **kwargs: object) -> Response:
        keys = sorted(self.get_queryset(), key=lambda key: key.created_at)
        return Response(self.get_serializer(keys, many=True).data)

    def create(self, request: Request, *args: object, **kwargs: object) -> Response:
        serializer = self.get_serializer(data=request.data)
        serializer.is_valid(raise_exception=True)
        secret = api_key_create(user=cast(User, request.user), name=serializer.validated_data["name"])
        shown = ApiKeySerializer(ApiKey.objects.get(pk=digest_of(secret)), context={"secret": secret}).data
        return Response(shown, status=HTTP_201_CREATED, headers=NO_STORE)

    def perform_destroy(self, instance: ApiKey) -> None:
        api_key_revoke(keys=ApiKey.objects.filter(pk=instance.pk))


class TicketSerializer(serializers.Serializer[dict[str, object]]):
    """A WebSocket ticket."""

    ticket = serializers.CharField(help_text="Offer it as the sub-protocol `ticket.<value>`, beside `tradingok.v1`.")
    expires_in = serializers.IntegerField(help_text="Seconds.")


class TicketView(APIView):
    """A single-use, short-lived ticket that opens `/ws/market/` where neither a session nor a header can."""

    @extend_schema(request=None, responses={201: TicketSerializer})
    def post(self, request: Request) -> Response:
        ticket = ticket_create(user=cast(User, request.user))
        return Response({"ticket": ticket, "expires_in": TICKET_SECONDS}, status=HTTP_201_CREATED, headers=NO_STORE)
