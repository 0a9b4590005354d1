"""Training: one loop, deterministic by seed."""
