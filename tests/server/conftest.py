"""Fixtures of the server's tests."""

from loopback_lens import running, runtime, start

__all__ = ["running", "runtime", "start"]
