"""Tests about the project itself: its table of settings, its tests, its import law, its generated code."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests import generated_code, settings_table
from tests.covered_elsewhere import NOT_TRIED, TRIED_BY

PROJECT = Path(__file__).resolve().parent.parent
PACKAGES = ("instruments", "accounts", "marketdata", "broker", "dashboard", "tradingok")
BY_NAME_ALONE = {"__init__.py", "apps.py", "urls.py"}  # declarations: `test_urls` and every start of Django try them
SAY_NOTHING = re.compile(r"(utils?|helpers?|common|misc|managers?|handlers?|processors?|data|info)")


def sources() -> list[str]:
    """The source files that are written by hand, as paths inside the project."""
    found = [PROJECT / "manage.py", *(file for package in PACKAGES for file in (PROJECT / package).rglob("*.py"))]
    names = [file.relative_to(PROJECT).as_posix() for file in found if file.name not in BY_NAME_ALONE]
    return sorted(name for name in names if "migrations/" not in name and not name.endswith("_pb2.py"))


def own_test(source: str) -> str | None:
    """The test file that has the source's name, in its mirrored folder or above; None where there is none."""
    path = Path(source)
    for folder in (path.parent, *path.parent.parents):
        test = PROJECT / "tests" / folder / f"test_{path.name}"
        if test.is_file():
            return test.relative_to(PROJECT / "tests").as_posix()
    return None


def test_every_source_file_has_a_test_file_or_a_stated_reason() -> None:
    assert [source for source in sources() if not own_test(source) and source not in TRIED_BY and source not in NOT_TRIED] == []


def test_stated_reasons_are_about_files_that_exist() -> None:
    known = set(sources())
    assert [source for source in (*TRIED_BY, *NOT_TRIED) if source not in known] == []
    assert [test for test in TRIED_BY.values() if not (PROJECT / "tests" / test).is_file()] == []


def test_no_file_has_a_name_that_says_nothing() -> None:
    assert [source for source in sources() if SAY_NOTHING.fullmatch(Path(source).stem)] == []


def test_the_readmes_table_of_settings_is_what_the_code_declares() -> None:
    assert settings_table.documented() == settings_table.table()


def test_an_undocumented_setting_would_be_noticed(tmp_path: Path) -> None:
    file = tmp_path / "README.md"
    file.write_text(settings_table.README.read_text().replace("| `PORT` |", "| `PORTS` |"))
    assert settings_table.documented(file) != settings_table.table()


def test_requirements_are_pinned_exactly() -> None:
    for name in ("requirements.txt", "requirements-dev.txt"):
        lines = [line.strip() for line in (PROJECT / name).read_text().splitlines()]
        loose = [line for line in lines if line and not line.startswith(("#", "-r ")) and not re.fullmatch(r"[\w.\[\]-]+==[\w.]+", line)]
        assert loose == [], name


def test_generated_code_is_current_and_a_change_would_be_noticed(tmp_path: Path) -> None:
    assert generated_code.outdated(generated_code.TARGET) == []
    for name in generated_code.GENERATED:
        shutil.copy(generated_code.TARGET / name, tmp_path)
    with (tmp_path / generated_code.GENERATED[0]).open("a") as file:
        file.write("# edited\n")
    assert generated_code.outdated(tmp_path) == [generated_code.GENERATED[0]]


@pytest.fixture(scope="module")
def project_copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("copy")
    shutil.copy(PROJECT / "pyproject.toml", folder)
    for package in PACKAGES:
        shutil.copytree(PROJECT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


def import_law(folder: Path) -> subprocess.CompletedProcess[str]:
    """Run import-linter in `folder`."""
    program = Path(sys.executable).parent / "lint-imports"
    return subprocess.run([program, "--no-cache"], cwd=folder, capture_output=True, text=True, timeout=120, check=False)


def test_the_import_law_holds(project_copy: Path) -> None:
    checked = import_law(project_copy)
    assert checked.returncode == 0, checked.stdout


@pytest.mark.parametrize(
    ("file", "forbidden"),
    [
        ("instruments/services.py", "import marketdata.store"),
        ("marketdata/hub.py", "import tradingok.settings"),
        ("marketdata/wire.py", "from django.conf import settings"),
        ("marketdata/outbox.py", "import marketdata.hub"),
        ("broker/pipeline.py", "import time"),
        ("broker/upstox/protocol.py", "import httpx"),
        ("dashboard/views.py", "import marketdata.models"),
        ("broker/store_writer.py", "import dashboard.views"),
    ],
)
def test_a_forbidden_import_breaks_the_import_law(project_copy: Path, file: str, forbidden: str) -> None:
    target = project_copy / file
    text = target.read_text()
    target.write_text(f"{text}\n{forbidden}  # noqa\n")
    try:
        checked = import_law(project_copy)
    finally:
        target.write_text(text)
    assert checked.returncode == 1
    assert file.removesuffix(".py").replace("/", ".") in checked.stdout
