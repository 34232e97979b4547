"""The packaged model, in this process and behind a server; an environment without keys."""

import pytest

from loopback_lens import running, runtime, start

__all__ = ["running", "runtime", "start"]


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL", "LENS_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
