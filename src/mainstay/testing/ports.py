"""Which port can a test's server keep, also while it is down?"""

from __future__ import annotations

from mainstay.processes.ports import free_port, steady_port

__all__ = ["free_port", "steady_port"]
