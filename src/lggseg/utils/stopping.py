"""SIGTERM and SIGINT stop a training run where it can be resumed, with a message."""

from __future__ import annotations

import os
import signal
import threading
from typing import Any

# The handlers that a signal has in a process that does nothing special with it.
_DEFAULTS: dict[signal.Signals, Any] = {
    signal.SIGTERM: signal.SIG_DFL,
    signal.SIGINT: signal.default_int_handler,
}


class Stopped(KeyboardInterrupt):
    """A signal told this process to stop. ``number`` is the signal's, ``status`` the exit status
    that says so, as a shell's: 143 for SIGTERM, 130 for SIGINT."""

    def __init__(self, number: int, saved: str = "Nothing was saved.") -> None:
        self.number, self.status = number, 128 + number
        super().__init__(f"stopped by {signal.Signals(number).name}. {saved}")


class StopSignals:
    """Turns SIGTERM and SIGINT into :class:`Stopped` while it is entered, however often.

    While ``after_step`` is set, Lightning's own handler of SIGTERM is at work, which ends a
    training after its step; SIGINT does the same then, and a second one ends it at once. Signals
    that are ignored or have another handler are left alone, and so are processes that train
    together, which torchrun stops.
    """

    def __init__(self) -> None:
        self.after_step = False
        self.received = 0
        self._entered = 0
        self._own: list[signal.Signals] = []

    def __enter__(self) -> None:
        self._entered += 1
        if self._entered > 1:
            return
        # An earlier training's, which must not stop this one, wherever it runs.
        self.received, self.after_step = 0, False
        main = threading.current_thread() is threading.main_thread()
        if not main or int(os.environ.get("WORLD_SIZE", 1)) > 1:
            return
        self._own = [name for name, usual in _DEFAULTS.items() if signal.getsignal(name) == usual]
        for name in self._own:
            signal.signal(name, self._handle)

    def __exit__(self, *_: object) -> None:
        self._entered -= 1
        if self._entered == 0:
            for name in self._own:
                signal.signal(name, _DEFAULTS[name])
            self._own = []

    def _handle(self, number: int, _: Any) -> None:
        again, self.received = bool(self.received), self.received or number
        at_once = number == signal.SIGINT and (again or signal.SIGTERM not in self._own)
        if not self.after_step or at_once:
            raise Stopped(self.received)
        if number == signal.SIGINT:
            signal.raise_signal(signal.SIGTERM)


SIGNALS = StopSignals()
