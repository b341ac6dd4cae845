"""The app's registration with Django."""

from django.apps import AppConfig


class AccountsConfig(AppConfig):
    """Who may come in: users, API keys, tickets, limits."""

    name = "accounts"
    verbose_name = "Accounts"
    default_auto_field = "django_mongodb_backend.fields.ObjectIdAutoField"
