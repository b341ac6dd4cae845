"""The app's registration with Django."""

from django.apps import AppConfig


class DashboardConfig(AppConfig):
    """The live page."""

    name = "dashboard"
    verbose_name = "Dashboard"
    default_auto_field = "django_mongodb_backend.fields.ObjectIdAutoField"
