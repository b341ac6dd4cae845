"""The app's registration with Django."""

from django.apps import AppConfig


class InstrumentsConfig(AppConfig):
    """What can be traded, and which of it we follow."""

    name = "instruments"
    verbose_name = "Instruments"
    default_auto_field = "django_mongodb_backend.fields.ObjectIdAutoField"
