"""The app's registration with Django."""

from django.apps import AppConfig
from django.core.checks import register


class TradingOKConfig(AppConfig):
    """Composition: settings, processes, servers."""

    name = "tradingok"
    verbose_name = "TradingOK"
    default_auto_field = "django_mongodb_backend.fields.ObjectIdAutoField"

    def ready(self) -> None:
        """Register the checks of the settings."""
        from tradingok import checks

        register(checks.check_settings, checks.TAG)
