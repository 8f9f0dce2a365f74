"""What a model is worth on held-out data: measures, their statistics, and the report."""
