"""Keeping API keys out of logs and records."""

from __future__ import annotations

import logging
import os
import threading

from pydantic import SecretStr

from lens_reasoner.openai_errors import HIDDEN, SHORTEST_SECRET

_LOGGERS = (
    "openai",
    "openai._base_client",
    *(
        f"{library}{part}"
        for library in ("httpx", "httpx2", "httpcore", "httpcore2")
        for part in ("", ".http11", ".http2", ".connection", ".proxy")
    ),
)


class _KeyFilter(logging.Filter):
    """Removes keys from log records, for example when a server echoes its headers."""

    def __init__(self) -> None:
        super().__init__()
        self.keys: set[SecretStr] = set()
        self.adding = threading.Lock()

    def filter(self, record: logging.LogRecord) -> bool:
        """Keep every record, without the keys."""
        text = record.getMessage()
        clean = text
        for key in tuple(self.keys):
            clean = clean.replace(key.get_secret_value(), HIDDEN)
        if clean != text:
            record.msg, record.args = clean, ()
        return True


_filter = _KeyFilter()

KEY_VARIABLES = ("OPENAI_API_KEY", "LENS_IMAGE_API_KEY")
"""Environment variables that hold keys."""


def without_keys(text: str) -> str:
    """The text without any key that this process has used or has in its environment."""
    used = (key.get_secret_value() for key in tuple(_filter.keys))
    found = {*used, *(os.environ.get(name, "") for name in KEY_VARIABLES)}
    for key in sorted(found, key=len, reverse=True):
        if len(key) >= SHORTEST_SECRET:
            text = text.replace(key, HIDDEN)
    return text


def keep_out_of_logs(key: SecretStr) -> None:
    """Hide `key` in everything the client library and its transport log from now on."""
    if len(key) < SHORTEST_SECRET:
        return
    with _filter.adding:
        _filter.keys.add(key)
        for name in _LOGGERS:
            # Adding the same filter twice has no effect.
            logging.getLogger(name).addFilter(_filter)
