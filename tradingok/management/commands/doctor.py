"""`manage.py doctor`: is this copy set up right, and if not, what to do."""

from __future__ import annotations

import json
from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand

from tradingok.doctor import examine
from tradingok.findings import format_finding, verdict


class Command(BaseCommand):
    """Prints each finding as it comes."""

    help = (
        "Check the set-up: versions, libraries, ports, disk, servers, credentials, clock, master, feed. Exit code 1 when anything failed."
    )
    requires_system_checks: list[str] = []  # they are findings of its own
    requires_migrations_checks = False

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Declare the option."""
        parser.add_argument("--json", action="store_true", help="Print one JSON object instead of lines.")

    def handle(self, *args: Any, **options: Any) -> None:
        """Examine, print, exit with the verdict."""
        findings = []
        for finding in examine():
            findings.append(finding)
            if not options["json"]:
                self.stdout.write(format_finding(finding))
                self.stdout.flush()
        line, code = verdict(findings)
        if options["json"]:
            found = [finding.as_dict() for finding in findings]
            self.stdout.write(json.dumps({"verdict": line, "exit_code": code, "findings": found}, ensure_ascii=False, indent=2))
        else:
            self.stdout.write(f"\n{line}")
        if code:
            raise SystemExit(code)
