from __future__ import annotations

import signal
import threading

import pytest

from agents.training.interrupt import SIGNALS, deferred_interrupt, signals_interrupt


@pytest.mark.parametrize("number", SIGNALS)
def test_the_first_one_is_noted_and_the_second_raises(number: int) -> None:
    with pytest.raises(KeyboardInterrupt), deferred_interrupt() as interrupted:
        assert not interrupted()
        signal.raise_signal(number)
        assert interrupted()
        signal.raise_signal(number)


@pytest.mark.parametrize("number", SIGNALS)
def test_elsewhere_every_signal_is_an_interrupt_with_its_exit_code(number: int) -> None:
    with signals_interrupt() as exit_code:
        assert exit_code() == 130
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(number)
        assert exit_code() == 128 + number
    with signals_interrupt() as exit_code, deferred_interrupt() as interrupted:
        signal.raise_signal(number)
        assert interrupted() and exit_code() == 128 + number


def test_what_the_process_ignores_stays_ignored() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with signals_interrupt(), deferred_interrupt() as interrupted:
            signal.raise_signal(signal.SIGINT)
            assert not interrupted()
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_afterwards_all_is_as_before() -> None:
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(RuntimeError), deferred_interrupt():
        assert signal.getsignal(signal.SIGINT) is not before
        raise RuntimeError
    assert signal.getsignal(signal.SIGINT) is before


def test_another_thread_is_left_alone() -> None:
    seen = []

    def work() -> None:
        with deferred_interrupt() as interrupted:
            seen.append(interrupted())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [False]
