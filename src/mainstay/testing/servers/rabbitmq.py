"""A private RabbitMQ, with its management interface."""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import quote

from mainstay.testing.ports import steady_port
from mainstay.testing.servers.server import HOST, USER, Server, ServerFailed

__all__ = ["NotThere", "RabbitMQ"]

# Debian's /usr/sbin/rabbitmq-server changes to the user rabbitmq; the script beneath it does not.
_SCRIPTS = (Path("/usr/lib/rabbitmq/bin"), Path("/opt/homebrew/sbin"))
_LOOPBACK_ONLY = "-kernel inet_dist_use_interface {127,0,0,1}"


class NotThere(RuntimeError):
    """The management interface knows no such thing."""


class RabbitMQ(Server):
    """The system's RabbitMQ as a node of its own: own cookie, own port mapper, loopback only.

    It takes about five seconds to start: share one over a session and give each test a virtual
    host (`create_vhost`).
    """

    package = "rabbitmq-server"

    def __init__(
        self, *, config: dict[str, str] | None = None, start_timeout_seconds: float = 90.0
    ) -> None:
        super().__init__(config=config, start_timeout_seconds=start_timeout_seconds)
        self.management_port = steady_port()
        self.node = f"mainstay-{secrets.token_hex(4)}@localhost"
        self._distribution_port = steady_port()
        self._mapper_port = steady_port()
        self._mapper: subprocess.Popen[bytes] | None = None

    @classmethod
    def program(cls) -> Path | None:
        for folder in _SCRIPTS:
            if (folder / "rabbitmq-server").exists():
                return folder / "rabbitmq-server"
        found = shutil.which("rabbitmq-server")
        return Path(found).resolve() if found else None

    @property
    def url(self) -> str:
        """The URL of the virtual host ``/``; tests better take `create_vhost`."""
        return self.url_of("/")

    def url_of(self, vhost: str) -> str:
        return f"amqp://{USER}:{self.password}@{HOST}:{self.port}/{quote(vhost, safe='')}"

    @property
    def management_url(self) -> str:
        """Where the management interface is, with user and password."""
        return f"http://{USER}:{self.password}@{HOST}:{self.management_port}"

    def create_vhost(self, name: str) -> str:
        """Create an empty virtual host and return its URL."""
        everything = {"configure": ".*", "write": ".*", "read": ".*"}
        self.manage("PUT", f"/vhosts/{quote(name, safe='')}", {})
        self.manage("PUT", f"/permissions/{quote(name, safe='')}/{USER}", everything)
        return self.url_of(name)

    def delete_vhost(self, name: str) -> None:
        """Delete a virtual host with all that is in it, and end the connections to it."""
        with contextlib.suppress(NotThere):
            self.manage("DELETE", f"/vhosts/{quote(name, safe='')}")

    def manage(self, method: str, path: str, body: object = None) -> Any:
        """Ask the management interface (*path* is what follows ``/api``); return its JSON.

        Raises:
            NotThere: What is asked for does not exist.
            RuntimeError: It answered with another error.
        """
        connection = http.client.HTTPConnection(HOST, self.management_port, timeout=10)
        try:
            basic = base64.b64encode(f"{USER}:{self.password}".encode()).decode()
            headers = {"Authorization": f"Basic {basic}", "Content-Type": "application/json"}
            payload = None if body is None else json.dumps(body)
            connection.request(method, f"/api{path}", payload, headers)
            response = connection.getresponse()
            content = response.read()
        finally:
            connection.close()
        if response.status >= 400:
            kind = NotThere if response.status == HTTPStatus.NOT_FOUND else RuntimeError
            raise kind(f"RabbitMQ refused {method} {path}: {response.status} {content!r}")
        return json.loads(content) if content else None

    def ctl(self, *arguments: str, timeout_seconds: float = 180.0) -> str:
        """Run ``rabbitmqctl`` against this node and return what it prints.

        Each run starts an Erlang virtual machine: two seconds on an idle machine, many on a busy
        one. Where an expression will do, `evaluate` is faster.

        Raises:
            RuntimeError: It failed; the message has what it said.
        """
        program = self.program()
        if program is None:
            raise ServerFailed(f"{self.package} is not installed: apt-get install {self.package}")
        done = subprocess.run(
            [program.with_name("rabbitmqctl"), "-q", "-n", self.node, *arguments],
            env=self._environment(),
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout_seconds,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"rabbitmqctl {' '.join(arguments)}: {done.stderr or done.stdout}")
        return done.stdout

    def evaluate(self, expression: str, *, timeout_seconds: float = 180.0) -> str:
        """Evaluate an Erlang expression, which ends with a full stop, in this node; return its
        value as text. Use it for numbers and atoms: how other terms are printed depends on the
        tool.

        Takes milliseconds where Erlang's ``erl_call`` is installed (it comes with Debian's
        ``erlang-base``), else as long as ``rabbitmqctl eval``.

        Raises:
            RuntimeError: It failed; the message has what Erlang printed.
        """
        program = shutil.which("erl_call")
        if program is None:
            return self.ctl("eval", expression, timeout_seconds=timeout_seconds).strip()
        done = subprocess.run(
            [program, "-sname", self.node, "-e"],
            env=self._environment(),
            cwd=self.folder,
            input=f"{expression.strip()}\n",
            capture_output=True,
            text=True,
            timeout=timeout_seconds,
            check=False,
        )
        printed = done.stdout.strip()
        if done.returncode or not printed.startswith("{ok, "):
            raise RuntimeError(f"erl_call: {expression}: {printed or done.stderr}")
        return printed.removeprefix("{ok, ").removesuffix("}")

    def settle(self) -> None:
        """Have everything that was declared so far written to disk."""
        self.evaluate("mnesia:dump_log(), [ok = dets:sync(T) || T <- dets:all()].")

    def stop(self) -> None:
        super().stop()
        self._end_mapper()

    def kill(self) -> None:
        """End it with SIGKILL.

        What was declared in the last moments may be forgotten: the broker confirms a declaration
        before it is on disk, or has half of it there, and then a quorum queue has no leader ever
        again. `settle` writes all of it.
        """
        super().kill()
        self._end_mapper()

    def close(self) -> None:
        self.kill()  # stopping in order takes six seconds, for data that is removed anyway
        super().close()

    def _prepare(self, folder: Path) -> None:
        settings = {
            "listeners.tcp.1": f"{HOST}:{self.port}",
            "management.tcp.ip": HOST,
            "management.tcp.port": str(self.management_port),
            "default_user": USER,
            "default_pass": self.password,
            "collect_statistics_interval": "1000",
            "log.file.level": "warning",
            **self.config,
        }
        config = folder / "rabbitmq.conf"
        config.write_text("".join(f"{name} = {value}\n" for name, value in settings.items()))
        (folder / "plugins").write_text("[rabbitmq_management].\n")
        cookie = folder / ".erlang.cookie"
        cookie.write_text(secrets.token_hex(20))
        cookie.chmod(0o400)

    def _command(self, program: Path, folder: Path) -> list[str]:
        return [str(program)]

    def _environment(self) -> dict[str, str]:
        folder = str(self.folder)
        return {
            **super()._environment(),
            "HOME": folder,  # where Erlang looks for its cookie
            "ERL_EPMD_PORT": str(self._mapper_port),
            "ERL_EPMD_ADDRESS": HOST,
            "RABBITMQ_NODENAME": self.node,
            "RABBITMQ_DIST_PORT": str(self._distribution_port),
            "RABBITMQ_CONFIG_FILE": f"{folder}/rabbitmq.conf",
            "RABBITMQ_ADVANCED_CONFIG_FILE": f"{folder}/advanced.config",
            "RABBITMQ_CONF_ENV_FILE": f"{folder}/rabbitmq-env.conf",
            "RABBITMQ_ENABLED_PLUGINS_FILE": f"{folder}/plugins",
            "RABBITMQ_MNESIA_BASE": f"{folder}/data",
            "RABBITMQ_LOG_BASE": f"{folder}/log",
            "RABBITMQ_PID_FILE": f"{folder}/pid",
            # No busy waiting: the tests need the processor too.
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": f"{_LOOPBACK_ONLY} +sbwt none +sbwtdcpu none",
            "RABBITMQ_CTL_ERL_ARGS": _LOOPBACK_ONLY,
            # The start script then becomes the server instead of watching it.
            "RUNNING_UNDER_SYSTEMD": "true",
        }

    def _spawn(self, command: list[str], environment: dict[str, str]) -> subprocess.Popen[bytes]:
        # Erlang starts a port mapper that outlives it, unless there is one: ours.
        if self._mapper is None or self._mapper.poll() is not None:
            mapper = [_mapper_program(), "-port", str(self._mapper_port), "-address", HOST]
            self._mapper = super()._spawn(mapper, environment)
        return super()._spawn(command, environment)

    def _end_mapper(self) -> None:
        mapper, self._mapper = self._mapper, None
        if mapper is not None:
            mapper.send_signal(signal.SIGKILL)
            mapper.wait()
            self._leash.release(mapper.pid)

    def _answers(self) -> bool:
        with socket.create_connection((HOST, self.port), timeout=2.0) as connection:
            connection.sendall(b"AMQP\x00\x00\x09\x01")
            # A method frame: the server's `connection.start`.
            if connection.recv(1) != b"\x01":
                return False
        try:
            self.manage("GET", "/overview")
        except (RuntimeError, http.client.HTTPException):
            return False
        return True


def _mapper_program() -> str:
    beside_erlang = sorted(Path("/usr/lib/erlang").glob("erts-*/bin/epmd"))
    found = shutil.which("epmd") or (os.fspath(beside_erlang[-1]) if beside_erlang else None)
    if found is None:
        raise ServerFailed("epmd is not installed: apt-get install erlang-base")
    return found
