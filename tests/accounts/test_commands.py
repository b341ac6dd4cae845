"""The commands as a shell sees them: the secret or the link on standard output, and nothing else there."""

from __future__ import annotations

from io import StringIO

import pytest
from django.core.management import CommandError, call_command

from accounts.models import ApiKey, User
from accounts.services import api_key_user, api_keys_forget

pytestmark = pytest.mark.django_db


def run(*words: str) -> str:
    out = StringIO()
    call_command(*words, stdout=out, stderr=StringIO())
    return out.getvalue()


def test_apikey_create_prints_only_the_secret() -> None:
    secret = run("apikey", "create", "laptop")
    assert secret == secret.strip() + "\n"
    user = api_key_user(secret.strip())
    assert user is not None
    assert user.username == "trader"


def test_apikey_list_shows_keys_without_their_secrets() -> None:
    secret = run("apikey", "create", "laptop").strip()
    listed = run("apikey", "list")
    assert "laptop" in listed
    assert "trader" in listed
    assert secret not in listed


def test_apikey_revoke_ends_the_key_of_that_user_only() -> None:
    api_keys_forget()
    User.objects.create_user("asha")
    mine, hers = run("apikey", "create", "laptop").strip(), run("apikey", "create", "laptop", "--user", "asha").strip()

    run("apikey", "revoke", "laptop", "--user", "asha")
    assert api_key_user(mine)
    assert not api_key_user(hers)

    run("apikey", "revoke", "laptop")
    assert ApiKey.objects.filter(revoked_at=None).count() == 0


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["apikey", "revoke", "ghost"], "No working key"),
        (["apikey", "create", "x", "--user", "ghost"], "no user"),
        (["apikey", "create", " "], "1 to 100"),
        (["apikey", "create", "x" * 101], "1 to 100"),
        (["signinlink", "--user", "ghost"], "no active user"),
        (["signinlink", "--base-url", "localhost:8080"], "http://"),
    ],
)
def test_what_cannot_be_done_says_why(words: list[str], says: str) -> None:
    with pytest.raises(CommandError, match=says):
        run(*words)


def test_signinlink_prints_only_the_link() -> None:
    link = run("signinlink", "--base-url", "http://127.0.0.1:9999")
    assert link.startswith("http://127.0.0.1:9999/signin/")
    assert link.count("\n") == 1
