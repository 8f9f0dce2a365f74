"""One file per method. Each has `run(cfg, inputs, output_dir, tracker) -> metrics`, in the same five chapters:
arguments, models, data, train, save. Stages never import each other.
"""
