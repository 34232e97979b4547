"""Adapters that make a `Generator` of pipelines, services and servers."""
