"""Logging of processes, as real ones set it up."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.tradingok.embedded_runs import PROJECT
from tradingok.logs import ROTATE_BYTES, ROTATE_KEEP, logging_settings

CODE = """
import logging, logging.config, sys
from pathlib import Path
from tradingok.logs import logging_settings
logging.config.dictConfig(logging_settings(sys.argv[1], Path(sys.argv[2])))
for _ in range(int(sys.argv[3])):
    logging.getLogger("feed").info("connected %s", "x" * 1000)
logging.getLogger("httpx").info("a line for each request")
"""


def log(process: str, folder: Path, lines: int = 1) -> str:
    """What a process that logs writes to its terminal."""
    line = [sys.executable, "-c", CODE, process, str(folder), str(lines)]
    return subprocess.run(line, cwd=PROJECT, capture_output=True, text=True, timeout=120, check=True).stderr


def test_a_process_writes_a_readable_file_of_its_own(tmp_path: Path) -> None:
    assert log("feed", tmp_path / "log") == ""
    assert " INFO    feed: connected" in (tmp_path / "log" / "feed.log").read_text()
    assert "each request" not in (tmp_path / "log" / "feed.log").read_text()


def test_a_command_at_a_terminal_writes_there(tmp_path: Path) -> None:
    assert " INFO    feed: connected" in log("", tmp_path / "log")
    assert not (tmp_path / "log").exists()


def test_files_are_rotated_and_bounded(tmp_path: Path) -> None:
    log("feed", tmp_path, lines=ROTATE_BYTES * (ROTATE_KEEP + 2) // 1000)
    files = sorted(file.name for file in tmp_path.iterdir())
    assert files == ["feed.log", *(f"feed.log.{n}" for n in range(1, ROTATE_KEEP + 1))]
    assert all(file.stat().st_size <= ROTATE_BYTES for file in tmp_path.iterdir())


@pytest.mark.parametrize("place", ["file", "file/inside"])
def test_where_no_file_can_be_written_the_terminal_gets_the_lines(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").touch()
    assert logging_settings("feed", tmp_path / place)["root"]["handlers"] == ["terminal"]
