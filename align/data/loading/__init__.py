"""From the `data:` block or a dataset artifact to the checked records and tables of a stage."""
