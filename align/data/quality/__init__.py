"""The data report, the repairs and filters it advises, and near duplicates."""
