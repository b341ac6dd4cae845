"""The app's registration with Django."""

from django.apps import AppConfig


class TradingOKConfig(AppConfig):
    """Composition: settings, processes, servers."""

    name = "tradingok"
    verbose_name = "TradingOK"
    default_auto_field = "django_mongodb_backend.fields.ObjectIdAutoField"
