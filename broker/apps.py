"""The app's registration with Django."""

from django.apps import AppConfig


class BrokerConfig(AppConfig):
    """Everything that knows a broker."""

    name = "broker"
    verbose_name = "Broker"
    default_auto_field = "django_mongodb_backend.fields.ObjectIdAutoField"
