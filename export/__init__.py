"""Turn checkpoints into what a station runs."""
