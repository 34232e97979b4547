"""The Lens model: components, checkpoints, inference and training."""
