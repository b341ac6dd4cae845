"""Logging of each process: readable lines to the terminal and to a rotated file of its own. Secrets never come here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

LINE = "{asctime} {levelname:<7} {name}: {message}"
ROTATE_BYTES = 5_000_000
ROTATE_KEEP = 5


def logging_settings(process: str, folder: Path) -> dict[str, Any]:
    """Django's LOGGING for one process.

    Args:
        process: the process's name ("feed", "web"…), given by the supervisor in TRADINGOK_PROCESS; empty: terminal only.
        folder: where `<process>.log` is written; made when missing. Where it cannot be written, the terminal gets the lines.
    """
    handlers: dict[str, dict[str, Any]] = {"terminal": {"class": "logging.StreamHandler", "formatter": "line"}}
    to_file = bool(process) and _can_write(folder / f"{process}.log")
    if to_file:
        handlers["file"] = {
            "class": "logging.handlers.RotatingFileHandler",
            "filename": folder / f"{process}.log",
            "maxBytes": ROTATE_BYTES,
            "backupCount": ROTATE_KEEP,
            "formatter": "line",
        }
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"line": {"format": LINE, "style": "{"}},
        "handlers": handlers,
        "root": {"handlers": ["file"] if to_file else ["terminal"], "level": "INFO"},
        "loggers": {
            name: {"level": "WARNING"}
            for name in (
                "httpx",
                "httpcore",
                "websockets",
                "pymongo",
                "asyncio",
                "daphne",
                "uvicorn.access",
                "celery.app.trace",
                "celery.worker.strategy",
                "celery.beat",
            )
        }
        # A client's mistake is told to the client; a line for each 4xx would also hold the paths that somebody tried.
        | {"django.request": {"level": "ERROR"}},
    }


def _can_write(file: Path) -> bool:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.open("ab").close()
    except OSError:
        return False
    return True
