"""Keys remembered for a few seconds."""

from __future__ import annotations

import pytest

from instruments.models import Instrument
from marketdata.api import key_memory as module
from marketdata.api.key_memory import KeyMemory
from tests.marketdata.api.fixtures import make_instrument

pytestmark = pytest.mark.django_db


def test_a_key_is_looked_up_once_and_again_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    make_instrument(1, "NSE_FO|5")
    memory = KeyMemory()
    assert memory.read(["NSE_FO|5", "NSE_FO|6"]) == {"NSE_FO|5": 1}

    Instrument.objects.update(active=False)
    make_instrument(2, "NSE_FO|5", identity="another")
    make_instrument(3, "NSE_FO|6", identity="a third")
    assert memory.read(["NSE_FO|5", "NSE_FO|6"]) == {"NSE_FO|5": 1, "NSE_FO|6": 3}  # the unknown was not remembered

    memory.forget()
    assert memory.read(["NSE_FO|5"]) == {"NSE_FO|5": 2}

    Instrument.objects.filter(pk=2).delete()
    monkeypatch.setattr(module, "SECONDS", 0.0)
    memory.forget()
    memory.read([])
    assert memory.read(["NSE_FO|5"]) == {}


def test_it_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(1, 6):
        make_instrument(number, f"NSE_FO|{number}")
    monkeypatch.setattr(module, "MOST_KEYS", 3)
    memory = KeyMemory()
    for number in range(1, 6):
        memory.read([f"NSE_FO|{number}"])
    assert len(memory._ids) <= 4
