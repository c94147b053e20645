"""What a service holds open when it holds nothing: stores that live and end with the process.

For tests, for trying out, and for reading first.
"""

from mainstay.resources.memory.idempotency import MemoryStore

__all__ = ["MemoryStore"]
