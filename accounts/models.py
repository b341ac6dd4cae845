"""Who may come in: users, API keys and one-time tokens. Secrets are stored as SHA-256 only."""

from __future__ import annotations

from django.conf import settings
from django.contrib.auth.models import AbstractUser
from django.contrib.sessions.base_session import AbstractBaseSession
from django.db import models

from accounts.sessions import SessionStore


class User(AbstractUser):
    """A person. Programs use an ApiKey of a person's."""

    class Meta(AbstractUser.Meta):
        # A unique field's own index is partial on MongoDB, and equality look-ups do not use it: a plain one beside it.
        indexes = [models.Index(fields=["username"], name="user_username")]


class ApiKey(models.Model):
    """A program's credential: 32 random bytes, shown once, stored as their SHA-256, which is the primary key: one index read finds it."""

    digest = models.CharField(primary_key=True, db_column="_id", max_length=64, editable=False)
    name = models.CharField(max_length=100)
    user = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="api_keys")
    hint = models.CharField(max_length=12, editable=False, help_text="The key's first characters, to tell keys apart.")
    created_at = models.DateTimeField(auto_now_add=True)
    last_used_at = models.DateTimeField(null=True, blank=True, editable=False)
    revoked_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        verbose_name = "API key"

    def __str__(self) -> str:
        return f"{self.name} ({self.hint}…)"


class OneTimeToken(models.Model):
    """A sign-in link or a WebSocket ticket: usable once, before `expires_at`. Used by deleting it, which only one caller can do."""

    class Kind(models.TextChoices):
        SIGN_IN = "signin"
        TICKET = "ticket"

    digest = models.CharField(primary_key=True, db_column="_id", max_length=64, editable=False)
    kind = models.CharField(max_length=10, choices=Kind.choices)
    user = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="+")
    expires_at = models.DateTimeField(db_index=True)

    def __str__(self) -> str:
        return f"{self.kind} until {self.expires_at}"


class Session(AbstractBaseSession):
    """A signed-in browser. Its key is the primary key, so that looking it up is one index read."""

    session_key = models.CharField(primary_key=True, db_column="_id", max_length=40, editable=False)

    @classmethod
    def get_session_store_class(cls) -> type[SessionStore]:
        return SessionStore
