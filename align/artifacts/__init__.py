"""The versioned artifact directory: the only thing that passes between stages."""
