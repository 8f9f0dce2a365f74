"""What a stage demands of its inputs, checked from files before torch is imported."""
