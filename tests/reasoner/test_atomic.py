"""Files that are there as a whole or not at all."""

from pathlib import Path

import pytest

from lens_reasoner import atomic
from lens_reasoner.atomic import write_atomically


class Refusals:
    """A file system that refuses to replace a file, some times."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, times: int, winerror: int | None) -> None:
        self.left = times
        self.winerror = winerror
        self.waited: list[float] = []
        self._replace = Path.replace
        monkeypatch.setattr(Path, "replace", lambda old, new: self.replace(old, new))
        monkeypatch.setattr(atomic.time, "sleep", self.waited.append)

    def replace(self, old: Path, new: Path) -> Path:
        if self.left == 0:
            return self._replace(old, new)
        self.left -= 1
        error = PermissionError(13, "in use", str(old))
        if self.winerror is not None:
            error.winerror = self.winerror  # type: ignore[attr-defined,unused-ignore]
        raise error


@pytest.fixture
def target(tmp_path: Path) -> Path:
    target = tmp_path / "answer.json"
    target.write_bytes(b"old")
    return target


def test_a_file_somebody_looks_at_on_windows_is_replaced_a_moment_later(
    target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refusals = Refusals(monkeypatch, 2, winerror=5)
    write_atomically(target, b"new")
    assert target.read_bytes() == b"new"
    assert len(refusals.waited) == 2
    assert [path.name for path in target.parent.iterdir()] == [target.name]


def test_who_never_lets_go_is_told(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refusals = Refusals(monkeypatch, 100, winerror=32)
    with pytest.raises(PermissionError):
        write_atomically(target, b"new")
    assert sum(refusals.waited) < 2
    assert target.read_bytes() == b"old"
    assert [path.name for path in target.parent.iterdir()] == [target.name]


def test_elsewhere_a_refusal_is_final(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refusals = Refusals(monkeypatch, 1, winerror=None)
    with pytest.raises(PermissionError):
        write_atomically(target, b"new")
    assert refusals.waited == []
