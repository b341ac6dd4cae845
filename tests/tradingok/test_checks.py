"""System checks of the settings: wrong values in a real `manage.py check`, and none in the defaults."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from django.core.checks import run_checks
from django.test import override_settings

from tests.tradingok.embedded_runs import PROJECT, environment


def check(var: Path, **variables: str) -> str:
    """What `manage.py check` writes with these settings, and "exit code N"."""
    done = subprocess.run(
        [sys.executable, "manage.py", "check"],
        cwd=PROJECT,
        env=environment(var, **variables),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return f"{done.stdout}{done.stderr}exit code {done.returncode}"


def test_the_defaults_have_no_problem(tmp_path: Path) -> None:
    assert check(tmp_path).split("\n") == ["System check identified no issues (0 silenced).", "exit code 0"]


WRONG = {
    "PORT": ("http", "tradingok.E001) PORT is 'http', which is not a whole number from 1 to 65535", "Unset, it is 8080"),
    "TRADINGOK_WS_STALL": ("nan", "TRADINGOK_WS_STALL is 'nan'", "from 0.5 to 600"),
    "TRADINGOK_DEBUG": ("maybe", "TRADINGOK_DEBUG is 'maybe'", "yes or no"),
    "REDIS_URL": ("http://user:hunter2@host/", "REDIS_URL is '(not shown)'", "redis://"),
    "TRADINGOK_QUEUE_TICKS": ("1000", "tradingok.E003"),
    "TRADINGOK_FEED_SHARD": ("1", "tradingok.E004", "from 0 to 0"),
    "TRADINGOK_NAMESPACE": ("my shop", "tradingok.E005", "'my shop'"),
    "TRADINGOK_API_BURST": ("1", "tradingok.W001"),
    "TRADINGOK_HOST": ("0.0.0.0", "tradingok.W002"),
    "UPSTOX_CLIENT_ID": ("hunter2", "tradingok.W003", "UPSTOX_CLIENT_SECRET, UPSTOX_REDIRECT_URI"),
}


def test_every_wrong_setting_is_named_with_what_it_takes_and_no_secret_is_shown(tmp_path: Path) -> None:
    said = check(tmp_path, **{name: value for name, (value, *_) in WRONG.items()})
    assert [words for _, *expected in WRONG.values() for words in expected if words not in said] == []
    assert said.count("HINT:") == len(WRONG)
    assert "hunter2" not in said
    assert said.endswith("exit code 1")


def test_production_needs_a_secret_of_its_own(tmp_path: Path) -> None:
    said = check(tmp_path, TRADINGOK_PRODUCTION="yes")
    assert "tradingok.E002) SECRET_KEY is not set" in said
    assert said.endswith("exit code 1")


def test_production_has_no_debug_pages(tmp_path: Path) -> None:
    said = check(tmp_path, TRADINGOK_PRODUCTION="yes", TRADINGOK_DEBUG="yes", SECRET_KEY="hunter2" * 8)
    assert "tradingok.E006" in said
    assert "hunter2" not in said
    assert said.endswith("exit code 1")


def test_a_file_in_place_of_the_data_folder_is_an_error(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    said = check(file)
    assert "tradingok.E001" in said
    assert "TRADINGOK_VAR" in said
    assert "Traceback" not in said


@override_settings(FEED_SHARDS=3, EXCHANGE_URL="")
def test_more_feeds_than_the_broker_takes_are_warned_of() -> None:
    assert "tradingok.W004" in {message.id for message in run_checks()}
    with override_settings(BROKER_CONNECTIONS=5):
        assert "tradingok.W004" not in {message.id for message in run_checks()}
    with override_settings(EXCHANGE_URL="http://127.0.0.1:1"):
        assert "tradingok.W004" not in {message.id for message in run_checks()}
