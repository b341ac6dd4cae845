"""The Celery application: `celery -A tradingok worker`, `celery -A tradingok beat`."""

import os

from celery import Celery

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tradingok.settings")
app = Celery("tradingok")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()
