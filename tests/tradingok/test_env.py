"""The typed readers of the environment: one expected value, every way of writing it, and every way of getting it wrong."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tradingok import env

NAME = "TRADINGOK_OF_A_TEST"


@pytest.fixture(autouse=True)
def _own_declarations(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(env, "DECLARED", {})
    monkeypatch.setattr(env, "PROBLEMS", [])
    monkeypatch.delenv(NAME, raising=False)


Reader = Callable[[], Any]
READERS: dict[str, tuple[Reader, Any]] = {
    "integer": (lambda: env.integer(NAME, 5, "Meaning.", low=1, high=10), 5),
    "number": (lambda: env.number(NAME, 0.5, "Meaning.", low=0, high=1), 0.5),
    "boolean": (lambda: env.boolean(NAME, False, "Meaning."), False),
    "text": (lambda: env.text(NAME, "a", "Meaning.", choices=("a", "b")), "a"),
    "words": (lambda: env.words(NAME, "a,b", "Meaning."), ["a", "b"]),
    "path": (lambda: env.path(NAME, Path("/default"), "Meaning.", shown="`default`"), Path("/default")),
    "url": (lambda: env.url(NAME, "http://default", "Meaning.", schemes=("http", "https")), "http://default"),
    "secret": (lambda: env.secret(NAME, "Meaning."), ""),
}


@pytest.mark.parametrize("kind", READERS)
@pytest.mark.parametrize("blank", [None, "", "   "])
def test_an_unset_or_blank_variable_gives_the_default_and_is_declared(
    kind: str, blank: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if blank is not None:
        monkeypatch.setenv(NAME, blank)
    read, default = READERS[kind]
    assert read() == default
    assert env.DECLARED[NAME].meaning == "Meaning."
    assert env.PROBLEMS == []


@pytest.mark.parametrize(
    ("kind", "raw", "expected"),
    [
        ("integer", "1", 1),
        ("integer", " 10 ", 10),
        ("number", "1e-3", 0.001),
        ("boolean", "YES", True),
        ("boolean", "on", True),
        ("boolean", "0", False),
        ("text", "b", "b"),
        ("words", " x ,, y,", ["x", "y"]),
        ("path", "/a/b", Path("/a/b")),
        ("path", "~", Path.home()),
        ("path", "relative", Path.cwd() / "relative"),
        ("url", "https://host/path", "https://host/path"),
        ("secret", "hunter2", "hunter2"),
    ],
)
def test_a_good_value_is_read(kind: str, raw: str, expected: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(NAME, raw)
    assert READERS[kind][0]() == expected
    assert env.PROBLEMS == []


@pytest.mark.parametrize(
    ("kind", "raw"),
    [
        ("integer", "0"),
        ("integer", "11"),
        ("integer", "5.0"),
        ("integer", "five"),
        ("integer", "9" * 5000),
        ("number", "nan"),
        ("number", "inf"),
        ("number", "2"),
        ("number", "x"),
        ("boolean", "perhaps"),
        ("text", "c"),
        ("url", "ftp://host"),
        ("url", "host"),
        ("url", "http://"),
        ("url", "http://[::1"),
    ],
)
def test_a_wrong_value_gives_the_default_and_one_problem_that_says_what_it_takes(
    kind: str, raw: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(NAME, raw)
    read, default = READERS[kind]
    assert read() == default
    assert [problem.name for problem in env.PROBLEMS] == [NAME]
    assert env.PROBLEMS[0].expected


def test_a_wrong_url_does_not_show_its_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(NAME, "ftp://user:hunter2@host")
    READERS["url"][0]()
    assert "hunter2" not in str(env.PROBLEMS)
