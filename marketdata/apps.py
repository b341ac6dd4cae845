"""The app's registration with Django."""

from django.apps import AppConfig

from instruments import trading_ends


class MarketDataConfig(AppConfig):
    """Ticks, quotes, candles and their way to clients."""

    name = "marketdata"
    verbose_name = "Market data"
    default_auto_field = "django_mongodb_backend.fields.ObjectIdAutoField"

    def ready(self) -> None:
        """Tell the instruments when trading ends, by the calendar that is kept here."""
        from marketdata.calendar import trading_end_known  # models are not there before

        trading_ends.provide(trading_end_known)
