"""All SQL of the review app: plain functions of a connection, a file a noun."""
