"""What every test may ask for: private servers and a receiver of telemetry."""

from __future__ import annotations

pytest_plugins = ["mainstay.testing.plugin"]
