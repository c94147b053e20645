"""Groups and types."""

import sqlalchemy as sa
from alembic import op

revision = "8d41c6b07a52"
down_revision = None
branch_labels = None
depends_on = None


def schema() -> str | None:
    """SQLite has none."""
    return "tbc" if op.get_context().dialect.name == "postgresql" else None


def upgrade() -> None:
    tbc = schema()
    if tbc:
        op.execute(f"create schema if not exists {tbc}")
    op.create_table(
        "books_files_groups",
        sa.Column("id", sa.BigInteger(), autoincrement=False, primary_key=True),
        sa.Column("name", sa.String(255)),
        sa.Column("comment", sa.String(2000)),
        schema=tbc,
    )
    groups = f"{tbc}.books_files_groups" if tbc else "books_files_groups"
    op.create_table(
        "books_files_types",
        sa.Column("id", sa.BigInteger(), autoincrement=False, primary_key=True),
        sa.Column("file_name", sa.String(255)),
        sa.Column("comments", sa.String(2000)),
        sa.Column("group_id", sa.BigInteger(), sa.ForeignKey(f"{groups}.id"), nullable=False),
        schema=tbc,
    )
    op.create_index("ix_books_files_types_group_id", "books_files_types", ["group_id"], schema=tbc)


def downgrade() -> None:
    op.drop_table("books_files_types", schema=schema())
    op.drop_table("books_files_groups", schema=schema())
