"""Signals are noted where an exception would do harm, and raised once where they come in pairs."""

import os
import signal

import pytest

from heatmill.local import interrupts


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_are_noted_and_their_handlers_come_back(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with interrupts.noted() as signals:
        os.kill(os.getpid(), number)
        assert signals == [number]
    assert signal.getsignal(number) == before


def test_only_the_first_of_two_signals_raises_while_it_unwinds() -> None:
    with interrupts.raised_once():
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)


def test_a_later_signal_raises_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interrupts, "UNWINDING_SECONDS", 0.0)
    with interrupts.raised_once():
        for _ in range(2):
            with pytest.raises(KeyboardInterrupt):
                os.kill(os.getpid(), signal.SIGINT)


def test_an_ignored_signal_stays_ignored() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with interrupts.noted() as signals:
            os.kill(os.getpid(), signal.SIGINT)
        assert signals == []
    finally:
        signal.signal(signal.SIGINT, before)
