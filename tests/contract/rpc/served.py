"""A call server as a service author writes it, with a few ways to misbehave."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from mainstay.config import Settings
from mainstay.rpc import run


class Served:
    def call(self, data: Any) -> Any:
        match data:
            case {"do": "pid"}:
                return os.getpid()
            case {"do": "hold", "file": name, "until": gate}:
                Path(name).touch()
                while not Path(gate).exists():
                    time.sleep(0.02)
                return os.getpid()
            case {"do": "die"}:
                os.kill(os.getpid(), signal.SIGKILL)
            case {"do": "die once", "file": name}:
                if not Path(name).exists():
                    Path(name).touch()
                    os.kill(os.getpid(), signal.SIGKILL)
                return os.getpid()
        return data


if __name__ == "__main__":
    queue, *options = sys.argv[1:]
    numbers = dict(option.split("=") for option in options)
    raise SystemExit(
        run(
            Settings.load(),
            queue=queue,
            target=Served(),
            delivery_limit=int(numbers.get("delivery_limit", "5")),
            lease_seconds=float(numbers.get("lease_seconds", "1.0")),
            queue_type="classic" if "classic" in numbers.get("type", "") else "quorum",
            monitored=False,
        )
    )
