"""`python -m tests.generated_code`: whether the generated protobuf module is what the .proto gives. `--write` makes it so."""

from __future__ import annotations

import filecmp
import os
import subprocess
import sys
import tempfile
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
SOURCE = PROJECT / "proto" / "MarketDataFeedV3.proto"
TARGET = PROJECT / "broker" / "upstox"
GENERATED = ("MarketDataFeedV3_pb2.py", "MarketDataFeedV3_pb2.pyi")


def generate(folder: Path) -> None:
    """Write the module and its type stub into `folder`. Raises CalledProcessError; protoc says why."""
    outputs = [f"--python_out={folder}", f"--mypy_out={folder}"]
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"  # protoc looks there for mypy-protobuf's plug-in
    command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{SOURCE.parent}", *outputs, SOURCE.name]
    subprocess.run(command, check=True, env={**os.environ, "PATH": path})


def outdated(folder: Path) -> list[str]:
    """Names of files in `folder` that differ from what the .proto gives, or are missing."""
    with tempfile.TemporaryDirectory() as fresh:
        generate(Path(fresh))
        _same, different, missing = filecmp.cmpfiles(fresh, folder, GENERATED, shallow=False)
    return sorted(different + missing)


def main(arguments: list[str]) -> int:
    """Check, or write. Returns the exit code: 1 where something is outdated."""
    if arguments == ["--write"]:
        generate(TARGET)
        return 0
    names = outdated(TARGET)
    for name in names:
        sys.stderr.write(f"broker/upstox/{name} is not what proto/{SOURCE.name} gives. Run: make proto\n")
    return 1 if names else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
