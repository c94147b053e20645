"""What a unit of work may send on, without knowing how: a call that is answered, a task that is
done later.

Ways in never import one another. A handler that calls or sends does it through what its service
holds, which only has to have this shape.
"""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

__all__ = ["Caller", "Sender"]


@runtime_checkable
class Caller(Protocol):
    """Calls a server and waits for its answer; `mainstay.rpc.Calls` is one."""

    async def acall(
        self,
        queue: str,
        data: Any = None,
        *,
        function: str = "",
        timeout_seconds: float | None = None,
        id: str | None = None,
    ) -> Any:
        """Call the server of *queue* and return its result.

        Args:
            id: What identifies the call; a server does the same one once.
        """


@runtime_checkable
class Sender(Protocol):
    """Hands tasks to the broker; the room of a service's tasks holds one."""

    async def asend(
        self, task: Any, /, *args: Any, task_id: str | None = None, **kwargs: Any
    ) -> str:
        """Send *task* and return its id, once the broker has confirmed it.

        Args:
            task_id: What identifies the task; sending it twice under one id is one task.
        """
