"""How does a process say what it does? One JSON object a line, on standard output.

Authors use the standard library: ``logging.getLogger(__name__).info("charged", extra={"event":
"card_charged", "amount": 5})``. The library itself writes its one line per unit of work with
:meth:`Logs.write`, which makes no log record.
"""

from __future__ import annotations

import atexit
import logging
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from importlib import import_module
from types import ModuleType, TracebackType
from typing import TYPE_CHECKING, BinaryIO

import orjson

from mainstay import context as contexts
from mainstay import otlp
from mainstay.logs.buffer import LineBuffer
from mainstay.logs.clock import Clock
from mainstay.logs.line import Line
from mainstay.logs.output import Output
from mainstay.logs.redaction import Redaction
from mainstay.logs.sender import Sender
from mainstay.logs.text import as_text

if TYPE_CHECKING:
    from mainstay.config import Settings

__all__ = ["Handler", "Line", "Logs"]

_LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40, "critical": 50}
_LEVEL_NAMES = {number: name for name, number in _LEVELS.items()}
_STACK_CHARACTERS = 16_384

# What every record has; anything else on it came as `extra`.
_RECORD_ATTRIBUTES = frozenset(
    {*logging.makeLogRecord({}).__dict__, "message", "asctime", "taskName", "color_message"}
)
_OWN_KEYS = frozenset(
    {
        *("ts", "level", "service", "logger", "instance", "env", "msg", "event"),
        *("correlation_id", "trace_id", "span_id", "user", "exception_type", "stack"),
    }
)
# What an author's field cannot put there.
_CONSTANT_KEYS = frozenset({"ts", "level", "service", "instance", "env"})
_NOTHING = logging.NullHandler()

# Their records come out in our form; what they write by themselves would be a second line.
_LIBRARIES = frozenset(
    {"uvicorn", "granian", "_granian", "gunicorn", "celery", "kombu", "sqlalchemy", "py", "alembic"}
)
_ACCESS_LOGS = ("uvicorn.access", "granian.access", "gunicorn.access")
# SQLAlchemy gives these a handler of their own when an engine is made with echo=True and they
# have none.
# What they say at level info is of use to their own developers alone.
_CHATTY = ("alembic", "celery.apps.worker", "celery.worker.consumer.connection")
_SELF_HANDLED = ("sqlalchemy.engine.Engine", "sqlalchemy.pool")


class Logs:
    """Writes the lines of one process.

    Args:
        settings: Whose service, instance and environment is on every line. Their secrets are
            hidden from the start.
        stream: Where to write, instead of standard output.
        dropped: Called with how many lines are dropped because nobody reads standard output.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        stream: BinaryIO | None = None,
        dropped: Callable[[int], object] = lambda _lines: None,
    ) -> None:
        self._settings = settings
        self._service = settings.service_name
        self._instance = settings.instance
        self._env = str(settings.env)
        self._is_text = settings.log_format == "text"
        self._threshold = _LEVELS.get(str(settings.log_level).lower(), 20)
        self.clock = Clock()
        self._output = Output(stream, dropped=dropped, told=self._tell_of_dropped)
        self.buffer = LineBuffer(self._output)
        self.redaction = Redaction()
        self.edition = 0
        """Goes up with everything that changes how a line is written."""
        self._is_sent = False
        self._sender: Sender | None = None
        self._sender_pid = 0
        self._sender_lock = threading.Lock()
        self.redaction.hide_all(settings)

    def install(self) -> None:
        """Bring every logger of this process into one form; doing it twice changes nothing.

        The root logger writes through us, handlers of libraries that would write a second line
        are removed, access logs of servers are off, and what nobody caught is one line.
        """
        root = logging.getLogger()
        for handler in list(root.handlers):
            if isinstance(handler, Handler) or _writes_to_terminal(handler):
                root.removeHandler(handler)
        root.addHandler(Handler(self))
        root.setLevel(self._threshold)
        for name, logger in list(root.manager.loggerDict.items()):
            if isinstance(logger, logging.Logger) and name.split(".", 1)[0] in _LIBRARIES:
                for handler in list(logger.handlers):
                    if _writes_to_terminal(handler):
                        logger.removeHandler(handler)
                logger.propagate = True
        for name in _ACCESS_LOGS:
            access = logging.getLogger(name)
            access.handlers.clear()
            access.propagate = False
        for name in _SELF_HANDLED:
            logging.getLogger(name).addHandler(_NOTHING)
        for name in _CHATTY:
            if logging.getLogger(name).level == logging.NOTSET:
                logging.getLogger(name).setLevel(max(self._threshold, logging.WARNING))
        logging.captureWarnings(True)
        sys.excepthook = self._crashed
        threading.excepthook = self._thread_crashed
        # Imported before a line needs it, and is sent: an import takes locks, and may log.
        self._is_sent = otlp.is_sent("logs") and otlp.opened("logs", _imported) is not None
        self.edition += 1

    def write(
        self,
        level: str,
        logger: str,
        msg: str,
        /,
        *,
        event: str | None = None,
        error: BaseException | None = None,
        **fields: object,
    ) -> None:
        """Write one line, unless *level* is below the threshold. Never raises.

        Args:
            level: ``debug``, ``info``, ``warning``, ``error`` or ``critical``.
            logger: Which part of the service speaks.
            msg: What happened, for people.
            event: What happened, as one word that can be searched for.
            error: Adds its type and its stack.
            fields: The facts. Values that JSON cannot hold are shown as text.
        """
        if _LEVELS.get(level, 20) >= self._threshold:
            self._emit(time.time_ns(), level, logger, msg, event, error, fields)

    def write_at(
        self, now_ns: int, level: str, logger: str, msg: str, fields: Mapping[str, object], /
    ) -> None:
        """Write a line about *now_ns*, nanoseconds since 1970, as :meth:`write` does."""
        if _LEVELS.get(level, 20) >= self._threshold:
            self._emit(now_ns, level, logger, msg, None, None, fields)

    def put(self, line: bytes) -> None:
        """Write bytes behind everything that was logged before them."""
        self.buffer.flush()
        self._output.write(line)

    def line(self, level: str, logger: str, msg: str, /, **fields: str | int) -> Line:
        """Prepare a line that is written again and again with the same *fields*.

        ``line.write(seconds)`` adds `duration_ms`, and whatever :meth:`write` does.
        """
        return Line(self, level, logger, msg, fields)

    def is_on(self, level: str) -> bool:
        """Would a line of *level* be written? For callers whose fields cost something."""
        return _LEVELS.get(level, 20) >= self._threshold

    def hide(self, secret: str) -> None:
        """Mask this exact value wherever it would appear; values under 4 characters are left."""
        self.redaction.hide(secret)
        self.edition += 1

    def about(
        self, level: str, logger: str, msg: str, fields: Mapping[str, str | int]
    ) -> tuple[Mapping[str, object], Mapping[str, object]] | None:
        """Return what a line begins with after its time, and its fields.

        ``None`` where each line has to be looked at: it is not written, or as text, or sent, or
        something in it may be a secret.
        """
        if not self.is_on(level) or self._is_text or self._is_sent:
            return None
        if not (self.redaction.passes(msg) and self.redaction.fields_pass(fields)):
            return None
        return self._head(level, logger, msg), _named(fields)

    def close(self) -> None:
        """Send what a collector is still to get, for three seconds; lines go on to stdout."""
        self.buffer.flush()
        sender, self._sender = self._sender, None
        self._is_sent = False
        self.edition += 1
        atexit.unregister(self.close)
        if sender is not None and self._sender_pid == os.getpid():
            sender.close()
        self._output.close()

    def _tell_of_dropped(self, lines: int) -> None:
        self.write(
            "warning",
            "mainstay.logs",
            f"{lines} lines of this log were dropped: nobody read standard output",
            event="log_lines_dropped",
            lines=lines,
        )

    @property
    def dropped(self) -> int:
        """Lines that a slow collector has not got; standard output has them."""
        return 0 if self._sender is None else self._sender.dropped

    def _emit(
        self,
        now_ns: int,
        level: str,
        logger: str,
        msg: str,
        event: str | None,
        error: BaseException | None,
        fields: Mapping[str, object],
    ) -> None:
        try:
            record: dict[str, object] = {"ts": self.clock.text(now_ns)}
            record.update(self._head(level, logger, msg))
            redaction = self.redaction
            passes = not self._is_text and redaction.passes(msg)
            if event is not None:
                record["event"] = event
                passes = passes and redaction.passes(event)
            context = contexts.current()
            if context is not None:
                record["correlation_id"] = correlation_id = context.correlation_id
                # A caller chooses it; one of our own has 32 digits.
                passes = passes and (
                    len(correlation_id) == 32 or redaction.passes_once(correlation_id)
                )
                record["trace_id"] = context.trace_id
                record["span_id"] = context.span_id
                if context.principal is not None:
                    record["user"] = context.principal.subject
                    passes = passes and redaction.passes(context.principal.subject)
            if error is not None:
                record["exception_type"] = type(error).__qualname__
                record["stack"] = _stack(error)
                passes = False
            record.update(_named(fields))
            passes = passes and redaction.fields_pass(fields)
            line = self._render(record, passes=passes)
        except Exception:  # noqa: BLE001 - logging must not break what is logged
            self.put(_unwritable(level, self._service, logger))
            return
        self.put(line)
        if self._is_sent:
            self._send(record)

    def _head(self, level: str, logger: str, msg: str) -> dict[str, object]:
        return {
            "level": level,
            "service": self._service,
            "logger": logger,
            "instance": self._instance,
            "env": self._env,
            "msg": msg,
        }

    def _render(self, record: dict[str, object], *, passes: bool) -> bytes:
        if passes:
            try:
                return orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE)
            except TypeError:  # a lone surrogate, an integer of more than 64 bits
                pass
        redaction = self.redaction
        clean: dict[str, object] = {}
        for key, value in record.items():
            if key not in _CONSTANT_KEYS:
                value = redaction.value(key, value)  # noqa: PLW2901 - what may be seen of it
            clean[key if key in _OWN_KEYS else redaction.text(key)] = value
        record.clear()
        record.update(clean)
        if self._is_text:
            return as_text(record, coloured=self._output.is_terminal)
        return orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE)

    def _send(self, record: dict[str, object]) -> None:
        sender = self._sender
        if sender is None or self._sender_pid != os.getpid():
            # Nothing that logs may happen under this lock.
            with self._sender_lock:
                if self._sender is None or self._sender_pid != os.getpid():
                    # Made in the process that writes: its thread would not survive a fork.
                    self._sender = Sender(self._settings)
                    self._sender_pid = os.getpid()
                    atexit.register(self.close)
                sender = self._sender
        sender.take(record)
        if sender.has_failed:
            self._is_sent = False
            self.edition += 1

    def _crashed(
        self, kind: type[BaseException], error: BaseException, stack: TracebackType | None
    ) -> None:
        if issubclass(kind, KeyboardInterrupt):
            sys.__excepthook__(kind, error, stack)
            return
        self.write(
            "critical", "mainstay", f"crashed: {kind.__name__}", event="crashed", error=error
        )

    def _thread_crashed(self, what: threading.ExceptHookArgs) -> None:
        if issubclass(what.exc_type, SystemExit) or what.exc_value is None:
            return
        name = what.thread.name if what.thread is not None else "unknown"
        self.write(
            "critical",
            "mainstay",
            f"thread {name} crashed: {what.exc_type.__name__}",
            event="crashed",
            error=what.exc_value,
            thread=name,
        )


class Handler(logging.Handler):
    """Brings records of the standard library into our form."""

    def __init__(self, logs: Logs) -> None:
        super().__init__()
        self._logs = logs

    def emit(self, record: logging.LogRecord) -> None:
        try:
            msg = record.getMessage()
        except Exception:  # noqa: BLE001 - arguments that do not fit the format, or a __str__ that raises
            msg = f"{record.msg!s} (its arguments do not fit)"
        fields = {
            key: value for key, value in record.__dict__.items() if key not in _RECORD_ATTRIBUTES
        }
        event = fields.pop("event", None)
        self._logs._emit(
            int(record.created * 1_000_000_000),
            _LEVEL_NAMES.get(record.levelno) or record.levelname.lower(),
            record.name,
            msg,
            None if event is None else str(event),
            record.exc_info[1] if record.exc_info else None,
            fields,
        )


def _imported() -> ModuleType:
    return import_module("mainstay.logs.records")


def _named(fields: Mapping[str, object]) -> Mapping[str, object]:
    """Return *fields* under names that are not the contract's own."""
    if _OWN_KEYS.isdisjoint(fields):
        return fields
    return {f"{key}_" if key in _OWN_KEYS else key: value for key, value in fields.items()}


def _stack(error: BaseException) -> str:
    text = "".join(traceback.format_exception(error))
    if len(text) <= _STACK_CHARACTERS:
        return text
    half = _STACK_CHARACTERS // 2
    return f"{text[:half]}\n… {len(text) - 2 * half} characters left out …\n{text[-half:]}"


def _writes_to_terminal(handler: logging.Handler) -> bool:
    # Exactly this class: those that write files or collect records for tests are subclasses.
    return type(handler) is logging.StreamHandler


def _unwritable(level: str, service: str, logger: str) -> bytes:
    line = {"level": level, "service": service, "logger": str(logger), "msg": "unwritable"}
    return orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE)
