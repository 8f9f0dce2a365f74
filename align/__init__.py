"""From a base model and human judgements to an aligned model that can say where it came from."""
