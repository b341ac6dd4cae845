"""Signing in and out in a browser's way."""

from __future__ import annotations

import logging

import pytest
from django.contrib.sessions.models import Session as DjangoSession
from django.test import Client

from accounts.models import ApiKey, Session, User
from accounts.services import api_key_create, api_key_user, sign_in_link_create
from accounts.views import attempts

pytestmark = pytest.mark.django_db


@pytest.fixture
def user() -> User:
    return User.objects.create_user("asha", password="a long password")


def path_of(link: str) -> str:
    return link.removeprefix("http://x")


def test_a_link_signs_in_once_and_leads_to_the_page(user: User, client: Client) -> None:
    path = path_of(sign_in_link_create(base_url="http://x", user=user))

    answer = client.get(path)
    assert (answer.status_code, answer["Location"]) == (302, "/")
    assert "no-store" in answer["Cache-Control"]
    assert client.session["_auth_user_id"] == str(user.pk)

    again = Client().get(path, follow=True)
    assert again.redirect_chain == [("/signin/?spent", 302)]
    assert "used already" in again.content.decode()
    assert "sessionid" not in again.client.cookies


@pytest.mark.parametrize("method", ["head", "post", "put"])
def test_only_a_get_uses_a_link_up(user: User, client: Client, method: str) -> None:
    path = path_of(sign_in_link_create(base_url="http://x", user=user))
    assert getattr(client, method)(path)["Location"] == "/signin/"
    assert client.get(path)["Location"] == "/"


def test_a_links_secret_is_in_no_log_line(user: User, client: Client, caplog: pytest.LogCaptureFixture) -> None:
    path = path_of(sign_in_link_create(base_url="http://x", user=user))
    with caplog.at_level(logging.DEBUG), caplog.at_level(logging.DEBUG, logger="django.request"):
        client.head(path)
        Client(enforce_csrf_checks=True).post(path)
        client.get(path)
        Client().get(path)
    assert path.split("/")[-2] not in "".join(record.getMessage() for record in caplog.records if not record.name.startswith("pymongo"))


def test_the_form_signs_in_and_says_how_to_get_a_link(user: User, client: Client) -> None:
    page = client.get("/signin/")
    assert page.status_code == 200
    assert "manage.py signinlink" in page.content.decode()

    wrong = client.post("/signin/", {"username": "asha", "password": "no"})
    assert wrong.status_code == 200
    assert "Please enter a correct username" in wrong.content.decode()
    right = client.post("/signin/", {"username": "asha", "password": "a long password"})
    assert (right.status_code, right["Location"]) == (302, "/")


def test_guessing_passwords_is_slowed_down_for_that_name_only(user: User, client: Client) -> None:
    attempts.clear()
    answers = [client.post("/signin/", {"username": "asha", "password": str(number)}) for number in range(12)]
    assert [answer.status_code for answer in answers] == [200] * 10 + [429] * 2
    assert 1 <= int(answers[-1]["Retry-After"]) <= 5
    assert "Too many attempts" in answers[-1].content.decode()
    assert client.post("/signin/", {"username": "ASHA", "password": "a long password"}).status_code == 429
    assert client.post("/signin/", {"username": "ravi", "password": "x"}).status_code == 200
    attempts.clear()
    assert client.post("/signin/", {"username": "asha", "password": "a long password"}).status_code == 302


def test_the_form_leads_nobody_to_another_site(user: User, client: Client) -> None:
    answer = client.post("/signin/", {"username": "asha", "password": "a long password", "next": "https://evil.example/"})
    assert answer["Location"] == "/"


def test_signing_out_ends_the_session_in_the_database(user: User, client: Client) -> None:
    client.force_login(user)
    assert Session.objects.count() == 1
    assert client.get("/signout/").status_code == 405
    assert client.post("/signout/")["Location"] == "/signin/"
    assert Session.objects.count() == 0
    assert DjangoSession.objects.count() == 0


# --- the admin --------------------------------------------------------------------------------------------------------
@pytest.fixture
def admin() -> Client:
    client = Client()
    client.force_login(User.objects.create_superuser("trader", password="a long password"))
    return client


def test_the_admin_lists_finds_and_ends_keys_and_never_makes_or_shows_one(user: User, admin: Client) -> None:
    secret, other = api_key_create(user=user, name="laptop"), api_key_create(user=user, name="server")
    listed = admin.get("/admin/accounts/apikey/").content.decode()
    assert "laptop" in listed
    assert secret not in listed
    found = admin.get("/admin/accounts/apikey/", {"q": "lapt"}).content.decode()
    assert "laptop" in found
    assert "server" not in found

    key = ApiKey.objects.get(name="laptop")
    page = admin.get(f"/admin/accounts/apikey/{key.pk}/change/").content.decode()
    assert secret not in page
    assert admin.get("/admin/accounts/apikey/add/").status_code == 403

    assert api_key_user(secret) == user
    answer = admin.post("/admin/accounts/apikey/", {"action": "revoke", "_selected_action": [key.pk]}, follow=True)
    assert "1 revoked." in answer.content.decode()
    assert api_key_user(secret) is None
    assert api_key_user(other) == user


def test_the_admin_has_its_everyday_pages_for_users(user: User, admin: Client) -> None:
    assert "asha" in admin.get("/admin/accounts/user/", {"q": "ash"}).content.decode()
    form = {"username": "ravi", "usable_password": "true", "password1": "another long one", "password2": "another long one"}
    assert admin.post("/admin/accounts/user/add/", form).status_code == 302
    made = User.objects.get(username="ravi")
    assert made.check_password("another long one")
    assert admin.get(f"/admin/accounts/user/{made.pk}/change/").status_code == 200
    assert admin.post(f"/admin/accounts/user/{made.pk}/delete/", {"post": "yes"}).status_code == 302
    assert not User.objects.filter(username="ravi").exists()


def test_the_admin_is_for_staff(user: User, client: Client) -> None:
    client.force_login(user)
    assert client.get("/admin/")["Location"].startswith("/admin/login/")
