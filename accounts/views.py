"""Signing in and out of the site: by password, or by a link that `manage.py signinlink` prints."""

from __future__ import annotations

import math
import time
from typing import Any

from django.contrib.auth import login
from django.contrib.auth.views import LoginView, LogoutView
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import redirect
from django.views.decorators.cache import never_cache
from django.views.decorators.csrf import csrf_exempt

from accounts.api.throttling import TokenBuckets
from accounts.services import sign_in_link_use

ATTEMPTS = 10
PAUSE_SECONDS = 5.0

attempts = TokenBuckets()


class SignInView(LoginView):
    """The form, and how to get a link instead. Guessing is slow: ATTEMPTS at once, then one in PAUSE_SECONDS."""

    template_name = "accounts/signin.html"
    redirect_authenticated_user = True

    def post(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        name = f"{request.META.get('REMOTE_ADDR')} {request.POST.get('username', '')[:150].lower()}"
        wait = attempts.take(name, rate=1 / PAUSE_SECONDS, burst=ATTEMPTS, now=time.monotonic())
        if wait:
            context = self.get_context_data(form=self.get_form_class()(request), wait_seconds=math.ceil(wait))
            return self.render_to_response(context, status=429, headers={"Retry-After": str(math.ceil(wait))})
        return super().post(request, *args, **kwargs)

    def get_context_data(self, **kwargs: Any) -> dict[str, Any]:
        return super().get_context_data(link_spent="spent" in self.request.GET, **kwargs)


class SignOutView(LogoutView):
    """Ends the session, by POST only, and leads to the form."""

    next_page = "/signin/"


@csrf_exempt
@never_cache
def sign_in_by_link(request: HttpRequest, secret: str) -> HttpResponse:
    """Sign the link's bearer in by GET and go to the page; all else leads to the form.

    No answer is an error: Django would write the path, and the secret in it, into the log.
    """
    if request.method != "GET":  # a look ahead at the link must not use it up
        return HttpResponseRedirect("/signin/")
    user = sign_in_link_use(secret)
    if user is None:
        return HttpResponseRedirect("/signin/?spent")
    login(request, user, backend="django.contrib.auth.backends.ModelBackend")
    return redirect("/")
