"""What the broker's side changes: the instruments, from the broker's own master."""

from __future__ import annotations

from datetime import datetime

from django.conf import settings

from broker.upstox.master import parse_master
from broker.upstox.master_source import fetch_master, shown
from instruments.models import MasterLoad
from instruments.services import Progress, instruments_refresh, instruments_unchanged


def instruments_refresh_from(
    *, source: str = "", as_of: datetime | None = None, force: bool = False, progress: Progress | None = None
) -> MasterLoad:
    """Read the broker's instrument master and make our instruments those that it names.

    The whole file is read and checked before anything changes. A master of the simulated exchange may have any size: how large that
    market is, is a choice.

    Args:
        source: address or file; default: INSTRUMENT_MASTER_URL of the settings.
        as_of: when it was true (aware); default now.
        force: read it although the server says it is unchanged, and apply it although more than half of the rows are missing.
        progress: told of each step.

    Raises:
        MasterUnavailable: it could not be read; worth a retry.
        MasterRejected: it is no instrument master.
        RefreshRefused: it may not be applied. LockHeld, LockLost: another refresh is running; worth a retry.
    """
    source = source or settings.INSTRUMENT_MASTER_URL
    last = MasterLoad.objects.order_by("-as_of").first()
    same_source = last is not None and last.source == shown(source)[:300]
    if progress:
        progress("reading", 0, 1)
    text, etag = fetch_master(source, etag=last.etag if last and same_source and as_of is None and not force else "")
    if text is None and last is not None:
        return instruments_unchanged(last=last)
    rows = parse_master(text or b"")
    del text  # 41 MB that the rest does not need
    simulated = bool(settings.EXCHANGE_URL) and source == settings.INSTRUMENT_MASTER_URL
    return instruments_refresh(rows=rows, source=shown(source), as_of=as_of, etag=etag, force=force or simulated, progress=progress)
