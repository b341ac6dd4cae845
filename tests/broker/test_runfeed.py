"""`manage.py runfeed`: which of how many feeds it is."""

from __future__ import annotations

import pytest
from django.core.management import CommandError
from pytest_django.fixtures import Settings

from broker.management.commands.runfeed import chosen_shard, feed_config


@pytest.fixture(autouse=True)
def _unset(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TRADINGOK_FEED_SHARD", "TRADINGOK_FEED_SHARDS"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(("text", "expected"), [("1/1", (0, 1)), ("1/2", (0, 2)), ("2/2", (1, 2)), ("8/8", (7, 8)), (None, (0, 1))])
def test_people_count_from_one(text: str | None, expected: tuple[int, int]) -> None:
    assert chosen_shard(text) == expected


@pytest.mark.parametrize("text", ["0/2", "3/2", "1/9", "-1/2", "1/0"])
def test_a_number_outside_is_refused(text: str) -> None:
    with pytest.raises(CommandError, match="the number must be from 1 to N"):
        chosen_shard(text)


@pytest.mark.parametrize("text", ["", "1", "a/b", "1/2/3", "1.0/2"])
def test_what_is_no_shard_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(CommandError, match="give K/N, as in 1/2"):
        chosen_shard(text)


def test_the_settings_say_it_where_the_command_line_does_not(settings: Settings) -> None:
    settings.FEED_SHARD, settings.FEED_SHARDS = 1, 3
    assert chosen_shard(None) == (1, 3)


def test_a_command_line_that_disagrees_with_a_setting_is_refused(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    settings.FEED_SHARDS = 3
    monkeypatch.setenv("TRADINGOK_FEED_SHARDS", "3")
    assert chosen_shard("2/3") == (1, 3)
    with pytest.raises(CommandError, match="TRADINGOK_FEED_SHARDS=3"):
        chosen_shard("1/2")
    monkeypatch.setenv("TRADINGOK_FEED_SHARD", "0")
    with pytest.raises(CommandError, match="TRADINGOK_FEED_SHARD=0"):
        chosen_shard("2/3")


def test_each_shard_has_a_folder_of_its_own(settings: Settings) -> None:
    folders = [feed_config(shard, 2).folder for shard in (0, 1)]
    assert [folder.relative_to(settings.VAR).as_posix() for folder in folders] == ["journal/0", "journal/1"]
