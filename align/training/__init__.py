"""The training loop of every stage: a trainer that resumes exactly, tracking, progress and samples."""
