"""What does RabbitMQ's management API say about the queues of a virtual host?"""

from __future__ import annotations

import json
from base64 import b64encode
from http.client import HTTPException
from typing import Any
from urllib.error import HTTPError
from urllib.parse import quote, unquote, urlsplit
from urllib.request import Request, urlopen

__all__ = ["Management"]

_NOT_FOUND = 404


class Management:
    """The management API, asked about one virtual host.

    Args:
        url: The broker, for the virtual host and, by default, for user and password.
        management_url: The API; with user and password where the broker's own do not serve.
        timeout_seconds: How long an answer may take.
    """

    def __init__(self, url: str, management_url: str, *, timeout_seconds: float) -> None:
        broker, api = urlsplit(url), urlsplit(management_url)
        who = api if api.username else broker
        login = f"{unquote(who.username or 'guest')}:{unquote(who.password or 'guest')}"
        self._login = f"Basic {b64encode(login.encode()).decode()}"
        self._timeout_seconds = timeout_seconds
        address = api._replace(netloc=api.netloc.rpartition("@")[2]).geturl().rstrip("/")
        self._queues = f"{address}/api/queues/{quote(unquote(broker.path[1:]) or '/', safe='')}"

    def names(self) -> list[str]:
        """Return the names of all queues.

        Raises:
            OSError, ValueError: The API does not answer, or refuses.
        """
        rows: list[dict[str, Any]] = self._get(f"{self._queues}?columns=name")
        return [row["name"] for row in rows]

    def queue(self, name: str) -> dict[str, Any] | None:
        """Return what is known of the queue *name*; ``None`` when there is no such queue.

        Raises:
            OSError, ValueError: The API does not answer, or refuses.
        """
        try:
            found: dict[str, Any] = self._get(f"{self._queues}/{quote(name, safe='')}")
        except HTTPError as error:
            if error.code == _NOT_FOUND:
                return None
            raise
        return found

    def _get(self, address: str) -> Any:
        request = Request(address, headers={"Authorization": self._login})  # noqa: S310 - the scheme was checked with the settings
        with urlopen(request, timeout=self._timeout_seconds) as response:  # noqa: S310 - likewise
            try:
                return json.load(response)
            except HTTPException as error:
                raise ValueError("the answer of the management API was cut short") from error
