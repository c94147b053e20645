from tests.databases import address, database, embedded_postgres

__all__ = ["address", "database", "embedded_postgres"]
