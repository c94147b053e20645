"""What all tables are made from; `MODEL_DISCOVERY_PATHS` says where they are."""

from sqlalchemy.orm import DeclarativeBase

__all__ = ["Base"]


class Base(DeclarativeBase):
    pass
