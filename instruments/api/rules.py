"""Subscription rules over REST: read by everybody, written by staff who may, tried before they are stored, and what they changed."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, cast
from urllib.parse import urlencode

from bson import ObjectId
from django.contrib.auth.models import PermissionsMixin
from django.core.exceptions import ValidationError
from django.http import Http404
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import serializers, viewsets
from rest_framework.decorators import action
from rest_framework.permissions import BasePermission
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from instruments.api import rule_serializers as shapes
from instruments.api.queries import NoQuery
from instruments.models import SubscriptionRule
from instruments.rules import rule_check, rule_remove, rule_save
from instruments.selectors import followed, market_now, rule_preview
from instruments.store import changes_collection

PERMISSIONS = {"create": "add", "preview": "add", "update": "change", "partial_update": "change", "destroy": "delete"}
"""What is done → the permission of the admin that it needs."""
RULE_ID = OpenApiParameter("id", str, OpenApiParameter.PATH, description="Id of the rule, 24 hexadecimal digits.")


class MayWriteRules(BasePermission):
    """Lets whom the admin lets: staff with Django's permission on subscription rules. Everybody may read."""

    message = "Only staff who may edit subscription rules may do this; an API key may what its user may."

    def has_permission(self, request: Request, view: APIView) -> bool:
        verb = PERMISSIONS.get(getattr(view, "action", None) or "")
        user = request.user
        return verb is None or (
            isinstance(user, PermissionsMixin)
            and bool(getattr(user, "is_staff", False))
            and user.has_perm(f"instruments.{verb}_subscriptionrule")
        )


class SubscriptionViewSet(viewsets.ViewSet):
    """The rules that decide what is followed, what they mean now, and against which limit."""

    lookup_value_regex = "[0-9a-f]{24}"
    permission_classes = [*APIView.permission_classes, MayWriteRules]

    @extend_schema(operation_id="subscriptions_list", responses=shapes.SubscriptionsSerializer)
    def list(self, request: Request) -> Response:
        NoQuery.read(request)
        now = followed(market_now())
        return Response({**shapes.followed_summary(now), "results": [shapes.rule_row(rule) for rule in now.rules]})

    @extend_schema(operation_id="subscription_detail", parameters=[RULE_ID], responses=shapes.SubscriptionDetailSerializer)
    def retrieve(self, request: Request, pk: str) -> Response:
        NoQuery.read(request)
        return Response(_shown(pk))

    @extend_schema(operation_id="subscription_create", request=shapes.RuleWords, responses={201: shapes.SubscriptionDetailSerializer})
    def create(self, request: Request) -> Response:
        rule = _written(shapes.RuleWords(data=request.data), SubscriptionRule())
        return _saved(request, rule, status=201)

    @extend_schema(
        operation_id="subscription_replace",
        parameters=[RULE_ID],
        request=shapes.RuleWords,
        responses=shapes.SubscriptionDetailSerializer,
    )
    def update(self, request: Request, pk: str) -> Response:
        return _saved(request, _written(shapes.RuleWords(data=request.data), _stored(pk)))

    @extend_schema(
        operation_id="subscription_change",
        parameters=[RULE_ID],
        request=shapes.RuleWords,
        responses=shapes.SubscriptionDetailSerializer,
    )
    def partial_update(self, request: Request, pk: str) -> Response:
        """Change what is named, keep the rest."""
        return _saved(request, _written(shapes.RuleWords(data=request.data, partial=True), _stored(pk)))

    @extend_schema(operation_id="subscription_remove", parameters=[RULE_ID], responses={204: None})
    def destroy(self, request: Request, pk: str) -> Response:
        rule_remove(rule=_stored(pk), by=str(request.user))
        return Response(status=204)

    @extend_schema(operation_id="subscription_preview", request=shapes.RulePreviewWords, responses=shapes.PreviewSerializer)
    @action(detail=False, methods=["post"], url_path="preview", url_name="preview")
    def preview(self, request: Request) -> Response:
        """Say what these words would select now, and what would then be cut; nothing is stored."""
        words = shapes.RulePreviewWords(data=request.data)
        words.is_valid(raise_exception=True)
        rule = shapes.rule_of_words(words.validated_data, _replaced(words.validated_data.get("replaces")))
        _checked(rule)
        now, tried = rule_preview(rule, market_now())
        return Response({**shapes.followed_summary(now), "rule": shapes.rule_detail(tried)})

    @extend_schema(operation_id="subscription_changes", parameters=[shapes.ChangesQuery], responses=shapes.ChangesSerializer)
    @action(detail=False, url_path="changes", url_name="changes")
    def changes(self, request: Request) -> Response:
        """List what entered and left, newest first by market time."""
        asked = shapes.ChangesQuery.read(request)
        rows = list(changes_collection().find(_changes_wanted(asked)).sort([("at", -1), ("_id", -1)]).limit(asked["limit"] + 1))
        more, rows = len(rows) > asked["limit"], rows[: asked["limit"]]
        results = [shapes.change_row(row) for row in rows]
        return Response({"results": results, "next": _next_url(request, results[-1]) if more else None})


def _stored(pk: str) -> SubscriptionRule:
    rule = SubscriptionRule.objects.filter(pk=ObjectId(pk)).first()
    if rule is None:
        raise Http404
    return rule


def _replaced(pk: str | None) -> SubscriptionRule:
    try:
        return SubscriptionRule() if pk is None else _stored(pk)
    except Http404:
        raise serializers.ValidationError({"replaces": "There is no such rule."}) from None


def _shown(pk: str) -> dict[str, Any]:
    rule = next((rule for rule in followed(market_now()).rules if str(rule.row.pk) == pk), None)
    if rule is None:
        raise Http404
    return shapes.rule_detail(rule)


def _written(words: shapes.RuleWords, rule: SubscriptionRule) -> SubscriptionRule:
    words.is_valid(raise_exception=True)
    return shapes.rule_of_words(words.validated_data, rule)


def _checked(rule: SubscriptionRule) -> None:
    try:
        rule_check(rule)
    except ValidationError as error:
        raise serializers.ValidationError(cast(Any, error.message_dict)) from None


def _saved(request: Request, rule: SubscriptionRule, status: int = 200) -> Response:
    try:
        rule_save(rule=rule, by=str(request.user))
    except ValidationError as error:
        raise serializers.ValidationError(cast(Any, error.message_dict)) from None
    except SubscriptionRule.DoesNotExist:
        raise Http404 from None
    headers = {"Location": f"{request.path}{rule.pk}/"} if status == 201 else {}
    return Response(_shown(str(rule.pk)), status=status, headers=headers)


def _changes_wanted(asked: dict[str, Any]) -> dict[str, Any]:
    """The query that ChangesQuery means; in the order of its index."""
    at = {bound: asked[name] for name, bound in (("from", "$gte"), ("to", "$lt")) if name in asked}
    wanted: dict[str, Any] = {"at": at} if at else {}
    if "cause" in asked:
        wanted["causes"] = asked["cause"]
    if "after" in asked:
        at_ms, identifier = asked["after"].split("-")
        moment = datetime.fromtimestamp(int(at_ms) / 1000, UTC)
        wanted = {"$and": [wanted, {"$or": [{"at": {"$lt": moment}}, {"at": moment, "_id": {"$lt": ObjectId(identifier)}}]}]}
    return wanted


def _next_url(request: Request, last: dict[str, Any]) -> str:
    query = urlencode({**request.query_params.dict(), "after": f"{last['at']}-{last['id']}"})
    return request.build_absolute_uri(f"{request.path}?{query}")
