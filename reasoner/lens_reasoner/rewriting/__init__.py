"""Checks in code of prompts that a language model writes."""
