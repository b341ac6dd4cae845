"""Django's settings: all of them come from the environment through `tradingok.env`, with defaults that work.

Nothing here connects to anything. Wrong values are reported by `manage.py check` (tradingok/checks.py).
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import django_stubs_ext
from celery.schedules import crontab

from tradingok import env
from tradingok.logs import logging_settings
from tradingok.places import development_secret, remembered_url

django_stubs_ext.monkeypatch()

BASE_DIR = Path(__file__).resolve().parent.parent

# --- places, ports, servers -------------------------------------------------------------------------------------------
VAR = env.path("TRADINGOK_VAR", BASE_DIR / "var", "Where data, journal, logs and remembered ports lie.", shown="`var/`")
PORT = env.integer("PORT", 8080, "Port of the web server.", low=1, high=65535)
HOST = env.text("TRADINGOK_HOST", "127.0.0.1", "Address the web server listens on.")
WEB_PROCESSES = env.integer("TRADINGOK_WEB_PROCESSES", 1, "Web processes that share the port.", low=1, high=64)
NAMESPACE = env.text("TRADINGOK_NAMESPACE", "tradingok", "Name of the MongoDB database and prefix of every Redis key and queue.")
MONGODB_URI = env.url(
    "MONGODB_URI",
    remembered_url(VAR, "mongod"),
    "Your own MongoDB 6.0–8.x replica set. Unset: the embedded mongod.",
    schemes=("mongodb", "mongodb+srv"),
    shown="embedded",
)
REDIS_URL = env.url(
    "REDIS_URL",
    remembered_url(VAR, "valkey"),
    "Your own Redis or Valkey. Unset: the embedded valkey.",
    schemes=("redis", "rediss"),
    shown="embedded",
)
MONGOD_CACHE_GB = env.number("TRADINGOK_MONGOD_CACHE_GB", 0.25, "Memory cache of the embedded mongod, in GB.", low=0.25, high=10_000)

# --- Django -----------------------------------------------------------------------------------------------------------
DEBUG = env.boolean("TRADINGOK_DEBUG", False, "Django's debug pages. Never in production.")
PRODUCTION = env.boolean("TRADINGOK_PRODUCTION", False, "Require SECRET_KEY, secure cookies and HTTPS.")
SECRET_KEY = env.secret("SECRET_KEY", "Signs sessions and encrypts broker tokens. Unset in development: made once into `var/`.") or (
    "" if PRODUCTION else development_secret(VAR)
)
ALLOWED_HOSTS = env.words("TRADINGOK_ALLOWED_HOSTS", "localhost,127.0.0.1,[::1]", "Host names that the web server answers to.")
CSRF_TRUSTED_ORIGINS = env.words(
    "TRADINGOK_TRUSTED_ORIGINS", "", "Origins (`https://host`) beside the server's own that may sign in and connect with a session."
)
CORS_ALLOWED_ORIGINS = env.words("TRADINGOK_CORS_ORIGINS", "", "Origins of front ends that may call the REST API.")
CORS_URLS_REGEX = r"^/(api|udf)/.*$"
CORS_EXPOSE_HEADERS = ["Retry-After", "X-Request-Id"]

INSTALLED_APPS = [
    "daphne",
    "tradingok.mongo_apps.MongoAdminConfig",
    "tradingok.mongo_apps.MongoAuthConfig",
    "tradingok.mongo_apps.MongoContentTypesConfig",
    "django.contrib.sessions",
    "django.contrib.messages",
    "whitenoise.runserver_nostatic",
    "django.contrib.staticfiles",
    "corsheaders",
    "rest_framework",
    "django_filters",
    "drf_spectacular",
    "drf_spectacular_sidecar",
    "channels",
    "tradingok",
    "accounts",
    "instruments",
    "marketdata",
    "broker",
    "dashboard",
]
MIGRATION_MODULES = {name: f"tradingok.mongo_migrations.{name}" for name in ("admin", "auth", "contenttypes")}
DEFAULT_AUTO_FIELD = "django_mongodb_backend.fields.ObjectIdAutoField"
AUTH_USER_MODEL = "accounts.User"

MIDDLEWARE = [
    "accounts.middleware.RequestIdMiddleware",
    "django.middleware.security.SecurityMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "corsheaders.middleware.CorsMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]
ROOT_URLCONF = "tradingok.urls"
ASGI_APPLICATION = "tradingok.asgi.application"
TEMPLATES: list[dict[str, Any]] = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ],
        },
    },
]
DATABASES: dict[str, dict[str, Any]] = {
    "default": {
        "ENGINE": "django_mongodb_backend",
        "HOST": MONGODB_URI,
        "NAME": NAMESPACE,
        "OPTIONS": {"serverSelectionTimeoutMS": 5000, "connectTimeoutMS": 5000, "appName": "tradingok"},
        "TEST": {"NAME": f"test_{NAMESPACE}"},
    }
}
DATABASE_ROUTERS = ["django_mongodb_backend.routers.MongoRouter"]
CACHES = {
    # One process's own memory: API keys (30 s), search. What must hold across processes is in live_state.
    "default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache", "OPTIONS": {"MAX_ENTRIES": 10_000}},
}
CHANNEL_LAYERS = {
    "default": {
        "BACKEND": "channels_redis.pubsub.RedisPubSubChannelLayer",
        # socket_timeout None: a subscriber that is idle for 5 s must not be cut (redis-py's default from 8 on).
        "CONFIG": {"hosts": [{"address": REDIS_URL, "socket_timeout": None}], "prefix": f"{NAMESPACE}.layer."},
    }
}

LANGUAGE_CODE = "en-in"
TIME_ZONE = "Asia/Kolkata"
USE_TZ = True
STATIC_URL = "/static/"
WHITENOISE_USE_FINDERS = True
STATICFILES_FINDERS = [
    "django.contrib.staticfiles.finders.AppDirectoriesFinder",
    "dashboard.finders.ChartLibraryFinder",
]
LOGIN_URL = "/signin/"
LOGIN_REDIRECT_URL = "/"
SESSION_ENGINE = "accounts.sessions"
SESSION_COOKIE_NAME = "tradingok_session"
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = SECURE_SSL_REDIRECT = PRODUCTION
SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https") if PRODUCTION else None
SECURE_HSTS_SECONDS = 31_536_000 if PRODUCTION else 0
DATA_UPLOAD_MAX_MEMORY_SIZE = 1_048_576
AUTH_PASSWORD_VALIDATORS = [{"NAME": "django.contrib.auth.password_validation.MinimumLengthValidator", "OPTIONS": {"min_length": 10}}]
LOGGING = logging_settings(os.environ.get("TRADINGOK_PROCESS", ""), VAR / "log")

# --- REST -------------------------------------------------------------------------------------------------------------
REST_FRAMEWORK: dict[str, Any] = {
    "DEFAULT_AUTHENTICATION_CLASSES": [
        "accounts.api.authentication.ApiKeyAuthentication",
        "rest_framework.authentication.SessionAuthentication",
    ],
    "DEFAULT_PERMISSION_CLASSES": ["rest_framework.permissions.IsAuthenticated"],
    "DEFAULT_THROTTLE_CLASSES": ["accounts.api.throttling.UserThrottle"],
    "DEFAULT_RENDERER_CLASSES": ["accounts.api.rendering.FastJSONRenderer", "rest_framework.renderers.BrowsableAPIRenderer"],
    "DEFAULT_PARSER_CLASSES": ["accounts.api.parsing.StrictJSONParser", "rest_framework.parsers.FormParser"],
    "DEFAULT_SCHEMA_CLASS": "drf_spectacular.openapi.AutoSchema",
    "EXCEPTION_HANDLER": "accounts.api.problems.exception_handler",
    "DEFAULT_FILTER_BACKENDS": ["django_filters.rest_framework.DjangoFilterBackend"],
    "UNAUTHENTICATED_USER": "django.contrib.auth.models.AnonymousUser",
    "COERCE_DECIMAL_TO_STRING": False,
}
SPECTACULAR_SETTINGS: dict[str, Any] = {
    "TITLE": "TradingOK",
    "DESCRIPTION": "Live Indian market data: instruments, ticks, candles, market status. "
    "Prices are rupees, times are epoch milliseconds UTC.",
    "VERSION": "1",
    "SERVE_INCLUDE_SCHEMA": False,
    "SERVE_PERMISSIONS": ["rest_framework.permissions.IsAuthenticated"],
    "SWAGGER_UI_DIST": "SIDECAR",
    "SWAGGER_UI_FAVICON_HREF": "SIDECAR",
    "REDOC_DIST": "SIDECAR",
}
API_REQUESTS_PER_SECOND = env.integer(
    "TRADINGOK_API_RATE", 100, "REST requests a second, per user and web process, sustained.", low=1, high=100_000
)
API_BURST = env.integer("TRADINGOK_API_BURST", 500, "REST requests that may come at once, per user and web process.", low=1, high=1_000_000)

# --- the way out: WebSocket -------------------------------------------------------------------------------------------
WS_CONNECTIONS_PER_USER = env.integer("TRADINGOK_WS_CONNECTIONS", 5, "WebSocket connections per user.", low=1, high=100_000)
WS_INSTRUMENTS_PER_USER = env.integer("TRADINGOK_WS_INSTRUMENTS", 2000, "Instruments that one connection may follow.", low=1, high=100_000)
WS_COMMANDS_PER_SECOND = env.integer("TRADINGOK_WS_COMMANDS", 20, "WebSocket commands a second, per connection.", low=1, high=10_000)
WS_COMMAND_BYTES = env.integer("TRADINGOK_WS_COMMAND_BYTES", 65_536, "Largest WebSocket command in bytes.", low=1024, high=16_777_216)
WS_STALL_SECONDS = env.number("TRADINGOK_WS_STALL", 10.0, "A client that takes nothing for so many seconds is aborted.", low=0.5, high=600)

# --- the feed ---------------------------------------------------------------------------------------------------------
EMISSION_WINDOW_MS = env.integer(
    "TRADINGOK_WINDOW_MS", 25, "Ticks are published to clients once in so many milliseconds.", low=5, high=1000
)
CANDLE_GRACE_MS = env.integer(
    "TRADINGOK_CANDLE_GRACE_MS",
    1500,
    "Market time that a minute waits for the broker's bar before its candle, made of ticks, is told as closed.",
    low=0,
    high=60_000,
)
STORE_BATCH_TICKS = env.integer("TRADINGOK_BATCH_TICKS", 2000, "Ticks in one write to MongoDB at the most.", low=1, high=20_000)
STORE_BATCH_MS = env.integer("TRADINGOK_BATCH_MS", 250, "Age in milliseconds at which a smaller batch is written.", low=10, high=10_000)
STORE_QUEUE_TICKS = env.integer(
    "TRADINGOK_QUEUE_TICKS",
    100_000,
    "Ticks held in memory for a slow store; past it they are read again from the journal.",
    low=1000,
    high=5_000_000,
)
TICK_RETENTION_DAYS = env.integer("TRADINGOK_TICK_DAYS", 7, "Days that ticks are kept in MongoDB.", low=1, high=3650)
CHANGE_RETENTION_DAYS = env.integer("TRADINGOK_CHANGE_DAYS", 90, "Days that changes of what is followed are kept.", low=1, high=3650)
CHAIN_RETENTION_DAYS = env.integer("TRADINGOK_CHAIN_DAYS", 30, "Days that each minute's option chains are kept.", low=1, high=3650)
JOURNAL_SEGMENT_MB = env.integer("TRADINGOK_JOURNAL_SEGMENT_MB", 256, "Size at which a journal segment is closed, in MB.", low=1, high=4096)
JOURNAL_DAYS = env.number("TRADINGOK_JOURNAL_DAYS", 7, "Days that a journal segment is kept once the store has it.", low=0.01, high=3650)
JOURNAL_GB = env.number(
    "TRADINGOK_JOURNAL_GB", 50, "Size of one feed's journal, in GB, past which the oldest stored segments go.", low=0.01, high=1_000_000
)
DISK_FLOOR_GB = env.number(
    "TRADINGOK_DISK_FLOOR_GB",
    2,
    "Free space, in GB, below which the oldest stored segments go at any age.",
    low=0,
    high=1_000_000,
)
FEED_SHARD = env.integer("TRADINGOK_FEED_SHARD", 0, "Number of this feed among the feeds, from 0.", low=0, high=7)
FEED_SHARDS = env.integer(
    "TRADINGOK_FEED_SHARDS",
    1,
    "How many feeds there are, each with its own connection to the broker; `make run` runs them all.",
    low=1,
    high=8,
)

# --- which instruments ------------------------------------------------------------------------------------------------
BROKER_MODE_LIMITS = {
    "ltpc": env.integer("TRADINGOK_LIMIT_LTPC", 5000, "Keys in ltpc mode on one connection (broker's limit).", low=0, high=100_000),
    "option_greeks": env.integer("TRADINGOK_LIMIT_GREEKS", 3000, "Keys in option_greeks mode on one connection.", low=0, high=100_000),
    "full": env.integer("TRADINGOK_LIMIT_FULL", 2000, "Keys in full mode on one connection.", low=0, high=100_000),
    "full_d30": env.integer("TRADINGOK_LIMIT_D30", 0, "Keys in full_d30 mode (Plus plan: 50).", low=0, high=100_000),
}
BROKER_CONNECTIONS = env.integer("TRADINGOK_CONNECTIONS", 2, "Feed connections that the broker allows (Plus plan: 5).", low=1, high=8)
BROKER_MIXED_MODE_LIMITS = {
    "ltpc": env.integer("TRADINGOK_MIXED_LIMIT_LTPC", 2000, "Keys in ltpc mode beside other modes.", low=0, high=100_000),
    "option_greeks": env.integer(
        "TRADINGOK_MIXED_LIMIT_GREEKS", 2000, "Keys in option_greeks mode beside other modes.", low=0, high=100_000
    ),
    "full": env.integer("TRADINGOK_MIXED_LIMIT_FULL", 1500, "Keys in full mode beside other modes.", low=0, high=100_000),
    "full_d30": BROKER_MODE_LIMITS["full_d30"],
}
"""The broker's limits when one connection mixes modes (FACTS §3.2); never more than those of a mode alone."""
UNIVERSE_UNDERLYINGS = env.words(
    "TRADINGOK_UNDERLYINGS", "NIFTY,BANKNIFTY,FINNIFTY,MIDCPNIFTY", "Underlyings of the default subscription rules, in order of priority."
)
UNIVERSE_WEEKLIES = env.integer("TRADINGOK_WEEKLIES", 2, "Weekly expiries followed by the default rules.", low=0, high=10)
UNIVERSE_MONTHLIES = env.integer("TRADINGOK_MONTHLIES", 1, "Monthly expiries followed by the default rules.", low=0, high=10)
UNIVERSE_STRIKES = env.integer(
    "TRADINGOK_STRIKES",
    500,
    "Strikes on each side of the money followed by the default rules; 500: all. The 40 nearest come first, of every underlying.",
    low=0,
    high=500,
)

INTEREST_RATE = env.number(
    "TRADINGOK_INTEREST_RATE",
    0.0,
    "A year's interest, continuous, as a fraction: discounts option prices where the broker sends no greeks. Its own are made with 0.",
    low=-0.5,
    high=1,
)

# --- the broker -------------------------------------------------------------------------------------------------------
UPSTOX_ACCESS_TOKEN = env.secret(
    "UPSTOX_ACCESS_TOKEN", "Analytics or access token. Unset, and no session signed in: the simulated exchange."
)
UPSTOX_CLIENT_ID = env.secret("UPSTOX_CLIENT_ID", "API key of your Upstox app, to sign in from the admin.")
UPSTOX_CLIENT_SECRET = env.secret("UPSTOX_CLIENT_SECRET", "API secret of your Upstox app.")
UPSTOX_REDIRECT_URI = env.text("UPSTOX_REDIRECT_URI", "", "Redirect URI of your Upstox app, exactly as registered.")
EXCHANGE_URL = env.url(
    "TRADINGOK_EXCHANGE_URL",
    "" if UPSTOX_ACCESS_TOKEN or UPSTOX_CLIENT_ID else remembered_url(VAR, "exchange"),
    "Address of a simulated exchange. Wins over the real broker. Unset: the one that `make run` started, if it did.",
    schemes=("http",),
    shown="",
)
UPSTOX_API_URL = env.url("UPSTOX_API_URL", "https://api.upstox.com", "The broker's REST address.", schemes=("https", "http"))
INSTRUMENT_MASTER_URL = env.url(
    "TRADINGOK_MASTER_URL",
    "https://assets.upstox.com/market-quote/instruments/exchange/NSE.json.gz",
    "The broker's instrument master.",
    schemes=("https", "http"),
)
if EXCHANGE_URL:
    UPSTOX_API_URL = EXCHANGE_URL
    INSTRUMENT_MASTER_URL = f"{EXCHANGE_URL}/market-quote/instruments/exchange/NSE.json.gz"

# --- Celery -----------------------------------------------------------------------------------------------------------
CELERY_BROKER_URL = REDIS_URL
CELERY_BROKER_TRANSPORT_OPTIONS = {"global_keyprefix": f"{NAMESPACE}.celery.", "visibility_timeout": 3600}
CELERY_TASK_IGNORE_RESULT = True
CELERY_TASK_ACKS_LATE = True
CELERY_TASK_TIME_LIMIT = 900
CELERY_WORKER_HIJACK_ROOT_LOGGER = False
CELERY_BROKER_CONNECTION_RETRY_ON_STARTUP = True
CELERY_TIMEZONE = TIME_ZONE
CELERY_BEAT_SCHEDULE_FILENAME = str(VAR / "celerybeat-schedule")
# Static; times are IST. `expires`: what a dead worker left in the queue is not done later, the next run makes up for it.
CELERY_BEAT_SCHEDULE: dict[str, dict[str, Any]] = {
    # Before the open; again, because a repeat costs one request while the file is the same, and makes up for one that failed.
    "refresh-instruments": {
        "task": "broker.refresh_instruments",
        "schedule": crontab(hour="7,8", minute="30,45"),
        "options": {"expires": 800},
    },
    # A special session is announced at any time. After the master and before the open; the feed itself fetches days that it does not know.
    "refresh-calendar": {
        "task": "broker.refresh_calendar",
        "schedule": crontab(hour="1,7,13,19", minute="35"),
        "options": {"expires": 3000},
    },
    "check-calendar": {"task": "broker.refresh_calendar", "schedule": crontab(hour="8", minute="50"), "options": {"expires": 1200}},
    "poll-market-status": {"task": "broker.poll_market_status", "schedule": crontab(hour="8-23", minute="*"), "options": {"expires": 50}},
    # So often, though a chain is asked for once a day: a replay's day begins at any time.
    "fetch-interest-bases": {"task": "broker.fetch_interest_bases", "schedule": crontab(minute="*/2"), "options": {"expires": 100}},
    "roll-up": {"task": "marketdata.roll_up", "schedule": crontab(minute="*"), "options": {"expires": 50}},
    "parity": {"task": "marketdata.parity", "schedule": crontab(minute="*"), "options": {"expires": 50}},
    # 8 s past the minute: a hole's bars are final 65 s after its last minute, and on the full minute that would be the next turn's.
    "heal-gaps": {"task": "broker.heal_gaps", "schedule": crontab(minute="*"), "options": {"expires": 50, "countdown": 8}},
    # After 07:05 the broker has yesterday's daily bars; again, to make up for what failed: what is confirmed is not asked for.
    "confirm-daily": {"task": "broker.confirm_daily", "schedule": crontab(hour="7,8,16", minute="8-58/10"), "options": {"expires": 500}},
    # 3 s into the minute: all that it began with is in the shared state by then, and market time has reached it.
    "store-chains": {"task": "marketdata.store_chains", "schedule": crontab(minute="*"), "options": {"expires": 50, "countdown": 3}},
    "store-latest-quotes": {"task": "marketdata.store_latest_quotes", "schedule": crontab(minute="*"), "options": {"expires": 50}},
    "apply-retention": {"task": "marketdata.apply_retention", "schedule": crontab(minute="7"), "options": {"expires": 3000}},
}
