"""Which signals do the tests, and the processes that they start, take notice of?"""

from __future__ import annotations

import signal
from typing import Any

__all__ = ["heed_signals"]


def heed_signals() -> None:
    """Let signals mean what they mean, for the processes of the tests too: what `nohup` starts, or
    a shell in the background, ignores some of them, and so does all that it starts.
    """
    handlers: dict[signal.Signals, Any] = {
        signal.SIGINT: signal.default_int_handler,
        signal.SIGQUIT: signal.SIG_DFL,
        # What is started anew has the default; these tests themselves go on without a terminal.
        signal.SIGHUP: lambda *_: None,
    }
    for number, handler in handlers.items():
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, handler)
