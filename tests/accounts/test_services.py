"""Credentials: made once, stored as digests, ended for good."""

from __future__ import annotations

import re
import threading
from datetime import timedelta

import pytest
from django.db import connection, connections
from django.utils import timezone

from accounts import services
from accounts.models import ApiKey, OneTimeToken, User

pytestmark = pytest.mark.django_db


@pytest.fixture
def user() -> User:
    services.api_keys_forget()
    return User.objects.create_user("asha", password="a long password")


def test_an_api_key_has_32_random_bytes_and_is_stored_as_its_digest_only(user: User) -> None:
    secret = services.api_key_create(user=user, name="laptop")

    assert re.fullmatch(r"tok_[A-Za-z0-9_-]{43}", secret)
    stored = connection.get_collection("accounts_apikey").find_one({})  # type: ignore[attr-defined]  # the MongoDB backend's
    assert stored["_id"] == services.digest_of(secret)
    assert secret not in str(stored)
    assert services.api_key_user(secret) == user


@pytest.mark.parametrize(
    "secret", ["", "tok_", "tok_" + "a" * 43, "tok_" + "a" * 44, "x" * 100_000, "tok_\x00" + "a" * 42, "tok_" + "é" * 43]
)
def test_what_is_no_key_is_nobody(user: User, secret: str) -> None:
    assert services.api_key_user(secret) is None


def test_a_revoked_key_is_refused_at_once_here_and_after_the_cache_elsewhere(user: User) -> None:
    secret = services.api_key_create(user=user, name="laptop")
    assert services.api_key_user(secret) == user

    ApiKey.objects.update(revoked_at=timezone.now())  # as another process does it
    assert services.api_key_user(secret) == user
    known = services._known[services.digest_of(secret)]
    services._known[services.digest_of(secret)] = known._replace(until=known.until - services.CACHE_SECONDS)
    assert services.api_key_user(secret) is None

    other = services.api_key_create(user=user, name="other")
    assert services.api_key_user(other) == user
    assert services.api_key_revoke(keys=ApiKey.objects.filter(name="other")) == 1
    assert services.api_key_user(other) is None
    assert services.api_key_revoke(keys=ApiKey.objects.filter(name="other")) == 0


def test_a_key_of_a_user_who_may_not_come_in_is_refused(user: User) -> None:
    secret = services.api_key_create(user=user, name="laptop")
    User.objects.update(is_active=False)
    assert services.api_key_user(secret) is None


def test_last_use_is_written_at_most_once_a_minute(user: User) -> None:
    secret = services.api_key_create(user=user, name="laptop")
    services.api_key_user(secret)
    first = ApiKey.objects.get().last_used_at
    assert first is not None

    services.api_keys_forget()
    services.api_key_user(secret)
    assert ApiKey.objects.get().last_used_at == first

    ApiKey.objects.update(last_used_at=first - timedelta(seconds=61))
    services.api_keys_forget()
    services.api_key_user(secret)
    written = ApiKey.objects.get().last_used_at
    assert written is not None
    assert written >= first


def test_credentials_work_until_their_key_is_revoked_or_their_user_is_gone(user: User) -> None:
    gone, asleep = User.objects.create(username="gone"), User.objects.create(username="asleep")
    keys = [services.digest_of(services.api_key_create(user=user, name=name)) for name in "ab"]
    held = [services.Credential(user.pk), *(services.Credential(user.pk, key) for key in keys)]
    others = [services.Credential(gone.pk), services.Credential(asleep.pk, keys[0])]
    assert services.credentials_working([*held, *others]) == {*held, *others}
    services.api_key_revoke(keys=ApiKey.objects.filter(pk=keys[1]))
    User.objects.filter(pk=asleep.pk).update(is_active=False)
    gone.delete()
    assert services.credentials_working([*held, *others]) == set(held[:2])
    assert services.credentials_working([]) == set()


def test_the_memory_of_keys_is_bounded(user: User, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(services, "CACHE_ENTRIES", 3)
    for number in range(5):
        services.api_key_user(services.api_key_create(user=user, name=str(number)))
    assert len(services._known) == 3


def test_the_owner_is_made_once_and_may_use_the_admin_in_development() -> None:
    owner = services.owner_user()
    assert services.owner_user() == owner
    assert (owner.username, owner.is_staff, owner.is_superuser, owner.has_usable_password()) == ("trader", True, True, False)


def test_in_production_the_owner_is_nobody_special(settings: object) -> None:
    settings.PRODUCTION = True  # type: ignore[attr-defined]
    assert not services.owner_user().is_superuser
    assert not services.owner_user().is_staff


@pytest.mark.parametrize("seconds", [1, 299])
def test_a_sign_in_link_works_once(user: User, seconds: int) -> None:
    link = services.sign_in_link_create(base_url="http://127.0.0.1:8080/", user=user)
    assert link.startswith("http://127.0.0.1:8080/signin/")
    secret = link.split("/")[-2]
    OneTimeToken.objects.update(expires_at=OneTimeToken.objects.get().expires_at - timedelta(seconds=300 - seconds))

    assert services.ticket_use(secret) is None  # another kind
    assert services.sign_in_link_use(secret) == user
    assert services.sign_in_link_use(secret) is None
    assert OneTimeToken.objects.count() == 0


def test_a_link_or_ticket_that_is_too_old_is_refused_and_swept_away(user: User) -> None:
    secret = services.ticket_create(user=user)
    OneTimeToken.objects.update(expires_at=timezone.now() - timedelta(seconds=1))
    assert services.ticket_use(secret) is None

    services.ticket_create(user=user)
    assert OneTimeToken.objects.count() == 1


def test_of_many_who_use_a_ticket_at_once_one_wins(user: User) -> None:
    secret = services.ticket_create(user=user)
    start, winners = threading.Barrier(8), []

    def use() -> None:
        start.wait()
        winners.append(services.ticket_use(secret))
        connections.close_all()

    threads = [threading.Thread(target=use) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(winners) == 8
    assert [winner for winner in winners if winner] == [user]
