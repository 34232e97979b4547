"""Agentic image generation."""
