"""Where things lie in the data folder: the development secret and the remembered addresses of embedded servers.

Reads and writes small files only; starts nothing.
"""

from __future__ import annotations

import json
import os
import secrets
from pathlib import Path

from tradingok import env

DEFAULT_URLS = {
    "mongod": "mongodb://127.0.0.1:27017/?directConnection=true",
    "valkey": "redis://127.0.0.1:6379/0",
    "exchange": "",
}


def remembered_url(var: Path, server: str) -> str:
    """The address that `server` ("mongod", "valkey" or "exchange") had when it was last started in `var`.

    Where no embedded server was ever started, its usual local address, so that commands fail with a plain "refused".
    The exchange has one only while `make run` runs it: then commands in other terminals speak to it, too.
    """
    try:
        url = json.loads((var / server / "address.json").read_text())["url"]
    except (OSError, ValueError, KeyError, TypeError):
        return DEFAULT_URLS[server]
    return str(url)


def development_secret(var: Path) -> str:
    """The SECRET_KEY of a development copy: made once, kept in `var/secret_key` with mode 0600.

    Where `var` cannot be used, a Problem says so, and the key is one that nobody will ever have again.
    """
    file = var / "secret_key"
    try:
        if not file.exists():
            _write_secret(file)
        return file.read_text()
    except OSError as error:
        env.PROBLEMS.append(env.Problem("TRADINGOK_VAR", str(var), f"a folder that can be written ({error.strerror})"))
        return secrets.token_urlsafe(50)


def _write_secret(file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(f".secret_key.{os.getpid()}")
    temporary.touch(mode=0o600)
    temporary.write_text(secrets.token_urlsafe(50))
    try:
        os.link(temporary, file)  # the first of two starting processes wins, both read its value
    except FileExistsError:
        pass
    finally:
        temporary.unlink()
