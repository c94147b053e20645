"""Real servers for development and tests that need nothing installed but Python.

PostgreSQL and Valkey come as wheels. They listen on loopback alone, with a generated password,
keep their data in a folder of the project, and are found again after any kind of death.
"""

from mainstay.embedded.postgres import Postgres
from mainstay.embedded.server import Server
from mainstay.embedded.valkey import Valkey

__all__ = ["Postgres", "Server", "Valkey"]
