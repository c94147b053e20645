"""Is telemetry sent to a collector, and under whose name?

OpenTelemetry's own variables decide, and its own exporters read them: endpoint, headers, timeout,
compression, certificates. Telemetry is sent over HTTP as protobuf.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from typing import TYPE_CHECKING, Literal, TypeVar

if TYPE_CHECKING:
    from opentelemetry.sdk.resources import Resource

    from mainstay.config import Settings

__all__ = ["CLOSE_SECONDS", "Signal", "is_sent", "opened", "resource"]

T = TypeVar("T")

Signal = Literal["traces", "metrics", "logs"]

CLOSE_SECONDS = 2.0
"""How long a process that stops waits for a collector to take what is left."""

_logger = logging.getLogger("mainstay.telemetry")


def is_sent(signal: Signal) -> bool:
    """Do the environment and what is installed say that *signal* is sent?

    An endpoint turns it on, ``OTEL_<SIGNAL>_EXPORTER=none`` or ``OTEL_SDK_DISABLED=true`` off.
    When the extra is missing, one warning says which command installs it.
    """
    return _is_wanted(signal) and _is_installed()


def opened(signal: Signal, make: Callable[[], T]) -> T | None:
    """Return what sends *signal*, as *make* makes it; ``None``, and one warning, where it cannot.

    What is wrong with OpenTelemetry, or with its variables, costs telemetry and never the service.
    """
    try:
        return make()
    except ImportError as error:
        _logger.warning("%s are not sent, OpenTelemetry cannot be imported: %s", signal, error)
    except Exception as error:  # noqa: BLE001 - each of its variables may raise another
        _logger.warning(
            "%s are not sent, OpenTelemetry does not accept its variables (OTEL_…): %s: %s",
            signal,
            type(error).__name__,
            error,
        )
    return None


def resource(settings: Settings) -> Resource:
    """Return the name, version and instance under which this process sends.

    ``OTEL_RESOURCE_ATTRIBUTES`` wins, but for the name, which is the same as in logs.
    """
    from opentelemetry.sdk.resources import OTELResourceDetector, Resource

    named = dict(OTELResourceDetector().detect().attributes)
    ours = {
        "service.version": settings.version,
        "service.instance.id": settings.instance,
        "deployment.environment.name": str(settings.env),
    }
    return Resource.create(ours | named | {"service.name": settings.service_name})


def _is_wanted(signal: Signal) -> bool:
    if os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return False
    name = signal.upper()
    exporters = os.environ.get(f"OTEL_{name}_EXPORTER") or "otlp"
    if "otlp" not in (exporter.strip().lower() for exporter in exporters.split(",")):
        return False
    return any(
        os.environ.get(variable, "").strip()
        for variable in ("OTEL_EXPORTER_OTLP_ENDPOINT", f"OTEL_EXPORTER_OTLP_{name}_ENDPOINT")
    )


@cache
def _is_installed() -> bool:
    """Is the extra there? Warns once in a process when it is not."""
    try:
        if find_spec("opentelemetry.sdk") and find_spec("opentelemetry.exporter.otlp.proto.http"):
            return True
    except ModuleNotFoundError:  # a parent of what is looked for
        pass
    _logger.warning(
        "an OTLP endpoint is set and telemetry is not sent: OpenTelemetry is not installed: "
        "pip install 'mainstay[otel]'"
    )
    return False
