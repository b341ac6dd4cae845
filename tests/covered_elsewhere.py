"""Source files without a test file of their own name, and which test file tries them instead, or why none does.

`tests/test_project.py` keeps this true: every other source file has its own, and every file named here exists.
"""

from __future__ import annotations

TRIED_BY = {
    "accounts/admin.py": "accounts/test_views.py",
    "accounts/management/commands/apikey.py": "accounts/test_commands.py",
    "accounts/management/commands/signinlink.py": "accounts/test_commands.py",
    "accounts/middleware.py": "accounts/api/test_problems.py",
    "accounts/models.py": "accounts/test_services.py",
    "accounts/sessions.py": "accounts/test_queries.py",
    "broker/management/commands/brokerlogin.py": "broker/test_sessions.py",
    "broker/management/commands/refresh_instruments.py": "broker/test_master_refresh.py",
    "broker/management/commands/runexchange.py": "broker/simulator/test_runexchange.py",
    "broker/market_status.py": "broker/test_tasks.py",
    "broker/models.py": "broker/test_sessions.py",
    "broker/position.py": "broker/test_store_writer.py",
    "broker/services.py": "broker/test_master_refresh.py",
    "broker/simulator/app.py": "broker/simulator/test_rest.py",
    "broker/simulator/bodies.py": "broker/simulator/test_rest.py",
    "broker/simulator/calendar_rows.py": "broker/simulator/test_rest.py",
    "broker/simulator/candles.py": "broker/simulator/test_rest.py",
    "broker/simulator/connection.py": "broker/simulator/test_feed.py",
    "broker/simulator/control.py": "broker/simulator/test_faults.py",
    "broker/simulator/cut.py": "broker/simulator/test_feeds.py",
    "broker/simulator/errors.py": "broker/simulator/test_rest.py",
    "broker/simulator/feed_server.py": "broker/simulator/test_feed.py",
    "broker/simulator/login_pages.py": "broker/simulator/test_login.py",
    "broker/simulator/market_port.py": "broker/simulator/test_rest.py",
    "broker/simulator/master_file.py": "broker/simulator/test_runexchange.py",
    "broker/simulator/placeholders.py": "broker/simulator/test_replay.py",
    "broker/simulator/quotes.py": "broker/simulator/test_rest.py",
    "broker/simulator/rest_server.py": "broker/simulator/test_rest.py",
    "broker/simulator/server.py": "broker/simulator/test_runexchange.py",
    "broker/simulator/source.py": "broker/simulator/test_market.py",
    "instruments/api/serializers.py": "instruments/api/test_views.py",
    "marketdata/api/series.py": "marketdata/api/test_ticks.py",
    "marketdata/domain/feed_status.py": "marketdata/test_feed_board.py",
    "marketdata/models.py": "marketdata/test_store.py",
    "marketdata/routing.py": "marketdata/test_consumers.py",
    "marketdata/selectors.py": "marketdata/api/test_ticks.py",
    "marketdata/task_runs.py": "marketdata/test_tasks.py",
    "tradingok/api_root.py": "tradingok/test_urls.py",
    "tradingok/asgi.py": "tradingok/test_up.py",
    "tradingok/body_limit.py": "tradingok/test_bounded_server.py",
    "tradingok/celery.py": "tradingok/test_up.py",
    "tradingok/embedded/__main__.py": "tradingok/test_embedded.py",
    "tradingok/embedded/errors.py": "tradingok/test_embedded.py",
    "tradingok/embedded/mongod.py": "tradingok/test_embedded.py",
    "tradingok/embedded/server.py": "tradingok/test_embedded.py",
    "tradingok/embedded/valkey.py": "tradingok/test_embedded.py",
    "tradingok/findings.py": "tradingok/test_doctor.py",
    "tradingok/management/commands/whichbroker.py": "tradingok/test_plan.py",
    "tradingok/server.py": "tradingok/test_up.py",
    "tradingok/settings.py": "test_project.py",
}

NOT_TRIED = {
    "manage.py": "Django's own entry point; every test that runs a command goes through it",
    "tradingok/mongo_apps.py": "three class attributes, which migrations and `makemigrations --check` prove",
}
