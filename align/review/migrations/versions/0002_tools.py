"""Tools that an item's answers may call."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.add_column("item", sa.Column("tools", sa.JSON(none_as_null=True), nullable=True))
