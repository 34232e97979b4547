"""Reinforcement learning by DiffusionNFT (arXiv 2509.16117), as the Lens recipe uses it."""
