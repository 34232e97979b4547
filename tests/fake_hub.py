"""A model hub on the loopback interface that serves folders, for tests of downloading."""

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlparse


class FakeHub:
    """Repositories are `root/owner/name/revision/...`; every revision is a 40-digit commit.

    `main` stands for the only revision of a repository. `asked` lists what was downloaded. So many
    answers as `busy` says are only that the server has no time.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.asked: list[str] = []
        self.endpoint = ""
        self.busy = 0

    def commit(self, repository: str, revision: str) -> Path | None:
        folder = self.root / repository
        if revision == "main" and folder.is_dir():
            return next(iter(sorted(folder.iterdir())), None)
        found = folder / revision
        return found if found.is_dir() else None


class _Handler(BaseHTTPRequestHandler):
    hub: FakeHub

    def log_message(self, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def _answer(self, with_body: bool) -> None:
        if self.hub.busy:
            self.hub.busy -= 1
            self._refuse(503)
            return
        parts = [unquote(part) for part in urlparse(self.path).path.strip("/").split("/")]
        if parts[:2] == ["api", "models"]:
            self._api(parts[2:])
        elif len(parts) > 4 and parts[2] == "resolve":
            self._file("/".join(parts[:2]), parts[3], "/".join(parts[4:]), with_body)
        else:
            self._missing("RepoNotFound")

    def _api(self, parts: list[str]) -> None:
        repository, verb, revision = "/".join(parts[:2]), *(parts[2:4] or ["revision", "main"])
        commit = self.hub.commit(repository, revision)
        if not (self.hub.root / repository).is_dir():
            self._missing("RepoNotFound")
        elif commit is None:
            self._missing("RevisionNotFound")
        elif verb == "tree":
            files = sorted(file for file in commit.rglob("*") if file.is_file())
            self._json([self._entry(commit, file) for file in files])
        else:
            self._json({"id": repository, "sha": commit.name, "siblings": []})

    def _entry(self, commit: Path, file: Path) -> dict[str, object]:
        path = file.relative_to(commit).as_posix()
        return {"type": "file", "path": path, "size": file.stat().st_size, "oid": "0" * 40}

    def _file(self, repository: str, revision: str, path: str, with_body: bool) -> None:
        commit = self.hub.commit(repository, revision)
        if commit is None or not (commit / path).is_file():
            self._missing("RepoNotFound" if commit is None else "EntryNotFound")
            return
        body = (commit / path).read_bytes()
        if with_body:
            self.hub.asked.append(f"{repository}/{path}")
        self.send_response(200)
        self.send_header("X-Repo-Commit", commit.name)
        self.send_header("ETag", f'"{hashlib.sha256(body).hexdigest()}"')
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if with_body:
            self.wfile.write(body)

    def _json(self, content: object) -> None:
        body = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _missing(self, code: str) -> None:
        self._refuse(404, **{"X-Error-Code": code, "X-Error-Message": "not here"})

    def _refuse(self, status: int, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", "0")
        self.end_headers()


@contextmanager
def serve(root: Path) -> Iterator[FakeHub]:
    """Serve the repositories below a folder."""
    hub = FakeHub(root)
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    hub.endpoint = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
