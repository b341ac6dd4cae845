"""The app's registration with Django."""

from django.apps import AppConfig


class MarketDataConfig(AppConfig):
    """Ticks, quotes, candles and their way to clients."""

    name = "marketdata"
    verbose_name = "Market data"
    default_auto_field = "django_mongodb_backend.fields.ObjectIdAutoField"
