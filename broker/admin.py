"""The broker in the admin: sessions, with signing in and out, and how far the store has got. A token is on no page."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from django.contrib import admin, messages
from django.contrib.auth.models import PermissionsMixin
from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import URLPattern, path, reverse
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_POST

from broker.models import BrokerSession, FeedPosition
from broker.sessions import SignInRefused, session_end, sign_in_begin, sign_in_finish
from broker.upstox.protocol import BrokerError
from marketdata.admin import ReadOnlyAdmin

STATE = "broker_sign_in_state"
"""Where the browser's session keeps the state that the broker's answer must carry."""


@admin.register(BrokerSession)
class BrokerSessionAdmin(ReadOnlyAdmin):
    """Sessions, newest first; the one that is in use can be ended, another begun."""

    list_display = ["broker", "user_id", "issued_at", "expires_at", "state"]
    fields = ["broker", "user_id", "issued_at", "expires_at", "revoked_at", "state"]
    readonly_fields = ["state"]
    ordering = ["-issued_at"]

    @admin.display(description="State")
    def state(self, session: BrokerSession) -> str:
        """Say whether it is used, without decrypting anything."""
        if session.revoked_at:
            return "signed out"
        if not session.token_encrypted:
            return "replaced"
        return "in use" if session.expires_at > datetime.now(UTC) else "expired"

    def get_urls(self) -> list[URLPattern]:
        own = [
            path("signin/", self.admin_site.admin_view(require_POST(self.sign_in)), name="broker_brokersession_signin"),
            path("callback/", self.admin_site.admin_view(never_cache(self.callback)), name="broker_brokersession_callback"),
            path("<str:pk>/signout/", self.admin_site.admin_view(require_POST(self.sign_out)), name="broker_brokersession_signout"),
        ]
        return own + super().get_urls()

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        live = BrokerSession.objects.filter(revoked_at=None, expires_at__gt=datetime.now(UTC)).order_by("-expires_at")
        context = {"may_sign_in": _may_sign_in(request), "open_session": next((row for row in live[:10] if row.token_encrypted), None)}
        return super().changelist_view(request, {**context, **(extra_context or {})})

    def sign_in(self, request: HttpRequest) -> HttpResponse:
        """Send the browser to the broker's dialog."""
        _require_sign_in(request)
        try:
            address, request.session[STATE] = sign_in_begin(_callback_address(request))
        except SignInRefused as error:
            return self._back(request, messages.ERROR, str(error))
        return HttpResponseRedirect(address)

    def callback(self, request: HttpRequest) -> HttpResponse:
        """Take the browser back from the dialog. The state works once."""
        _require_sign_in(request)
        try:
            session = sign_in_finish(
                code=request.GET.get("code", ""),
                state=request.GET.get("state", ""),
                expected_state=request.session.pop(STATE, ""),
                redirect_uri=_callback_address(request),
            )
        except (SignInRefused, BrokerError) as error:
            return self._back(request, messages.ERROR, f"Not signed in: {error}")
        return self._back(request, messages.SUCCESS, f"Signed in as {session.user_id}, until {session.expires_at:%Y-%m-%d %H:%M} UTC.")

    def sign_out(self, request: HttpRequest, pk: str) -> HttpResponse:
        """End a session here and at the broker."""
        _require_sign_in(request)
        session = self.get_object(request, pk)
        if session is None:
            raise Http404
        problem = session_end(session)
        if problem:
            return self._back(request, messages.WARNING, f"Ended here; the broker said: {problem}")
        return self._back(request, messages.SUCCESS, "Signed out.")

    def _back(self, request: HttpRequest, level: int, text: str) -> HttpResponse:
        self.message_user(request, text, level)
        return HttpResponseRedirect(reverse("admin:broker_brokersession_changelist"))


@admin.register(FeedPosition)
class FeedPositionAdmin(ReadOnlyAdmin):
    """How far the journal of each shard is in the store."""

    list_display = ["shard", "received_us", "updated_at"]
    ordering = ["shard"]


def _may_sign_in(request: HttpRequest) -> bool:
    return isinstance(request.user, PermissionsMixin) and request.user.has_perm("broker.add_brokersession")


def _require_sign_in(request: HttpRequest) -> None:
    if not _may_sign_in(request):
        raise PermissionDenied


def _callback_address(request: HttpRequest) -> str:
    return request.build_absolute_uri(reverse("admin:broker_brokersession_callback"))
