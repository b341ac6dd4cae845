"""The small files of the data folder."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.tradingok.embedded_runs import PROJECT
from tradingok import env
from tradingok.places import DEFAULT_URLS, development_secret, remembered_url


def test_the_secret_is_made_once_and_is_nobody_elses_to_read(tmp_path: Path) -> None:
    secret = development_secret(tmp_path / "new")
    assert len(secret) >= 50
    assert development_secret(tmp_path / "new") == secret
    assert (tmp_path / "new" / "secret_key").stat().st_mode & 0o777 == 0o600


def test_processes_that_start_at_once_agree_on_the_secret(tmp_path: Path) -> None:
    code = "import sys, pathlib, tradingok.places as places; print(places.development_secret(pathlib.Path(sys.argv[1])))"
    line = [sys.executable, "-c", code, str(tmp_path / "new")]
    processes = [subprocess.Popen(line, cwd=PROJECT, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    assert len({process.communicate(timeout=60)[0] for process in processes}) == 1


def test_where_nothing_can_be_written_a_problem_says_so_and_the_secret_is_good_for_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(env, "PROBLEMS", [])
    file = tmp_path / "file"
    file.touch()
    assert development_secret(file) != development_secret(file)
    assert {problem.name for problem in env.PROBLEMS} == {"TRADINGOK_VAR"}


@pytest.mark.parametrize("content", [None, "", "{", "[]", '{"port": 1}'])
@pytest.mark.parametrize("server", DEFAULT_URLS)
def test_a_server_that_was_never_started_has_its_usual_address(tmp_path: Path, server: str, content: str | None) -> None:
    if content is not None:
        (tmp_path / server).mkdir()
        (tmp_path / server / "address.json").write_text(content)
    assert remembered_url(tmp_path, server) == DEFAULT_URLS[server]
