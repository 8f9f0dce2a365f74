"""What Alembic runs: the migrations, on the connection and in the transaction of `align.review.database.migrate`."""

from alembic import context

from align.review.tables import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
context.run_migrations()
