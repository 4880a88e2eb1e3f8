"""Which signals ask a worker to stop."""

from __future__ import annotations

import os
import signal

import pytest

from worker.supervisor.signals import Signals


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGTERM, signal.SIGUSR2])
def test_a_stop_is_asked_for_with_a_checkpoint(number: signal.Signals) -> None:
    handled = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR2)
    before = [signal.getsignal(each) for each in handled]
    signals = Signals()
    signals.install()
    try:
        os.kill(os.getpid(), number)
        assert signals.stop and not signals.at_once
        assert signals.requeue == (number == signal.SIGUSR2)
    finally:
        for each, handler in zip(handled, before, strict=True):
            signal.signal(each, handler)
