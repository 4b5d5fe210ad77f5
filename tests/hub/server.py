"""A hub on loopback, as far as the libraries ask one: listings, files with ranges, gates, faults, and a log."""

import hashlib
import json
import re
import socket
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qs, unquote, urlparse

API = re.compile(r"/api/(models|datasets)/([^/]+/[^/]+)(?:/(revision|tree|paths-info)/(.+))?")
FILE = re.compile(r"/(datasets/)?([^/]+/[^/]+)/resolve/(.+)")
LARGE = (".safetensors", ".bin", ".pth", ".h5", ".msgpack", ".ot", ".onnx", ".parquet")


class Request(NamedTuple):
    """One request and its answer."""

    method: str
    path: str
    status: int
    sent: int
    """Bytes of a file."""


class Answer(Exception):  # noqa: N818
    """Ends a request with a status, and the hub's code and words for it."""

    def __init__(self, status: int, code: str = "", words: str = "") -> None:
        super().__init__(words)
        self.status, self.code, self.words = status, code, words


@dataclass
class Hub:
    """The repositories in `root/{models,datasets}/ORGANISATION/NAME/REVISION`, and how the hub behaves."""

    root: Path
    gated: set[str] = field(default_factory=set)
    """Repositories whose files need a token."""
    tokens: dict[str, bool] = field(default_factory=dict)
    """Token to whether it has access to gated repositories; any other token is invalid."""
    answers: dict[str, int] = field(default_factory=dict)
    """Pattern of a path to the status that it is answered with."""
    cuts: dict[str, int] = field(default_factory=dict)
    """Pattern of a file's path to how often its download is cut after a third."""
    log: list[Request] = field(default_factory=list)

    def __post_init__(self) -> None:

        class Handler(_Handler):
            pass

        Handler.hub = self
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}"

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()

    def behave(self) -> None:
        """Forget faults and log."""
        self.gated.clear()
        self.tokens.clear()
        self.answers.clear()
        self.cuts.clear()
        self.log.clear()

    def files(self, *, endings: tuple[str, ...] = LARGE) -> list[str]:
        """Files of these kinds whose content was sent, by their paths in the repository, in order."""
        found = (FILE.fullmatch(unquote(entry.path)) for entry in self.log if entry.method == "GET" and entry.sent)
        names = (match[2] + "/" + match[3].partition("/")[2] for match in found if match)
        return [name for name in names if name.endswith(endings)]

    def revisions(self, kind: str, repository: str) -> dict[str, Path]:
        folder = self.root / kind / repository
        if not folder.is_dir():
            raise Answer(401, "RepoNotFound", "Repository not found")
        return {place.name.replace("%2F", "/"): place for place in folder.iterdir()}

    def commit(self, kind: str, repository: str, wanted: str) -> tuple[Path, str, str]:
        """Folder and commit of a revision, and what follows it in a path."""
        for revision, folder in self.revisions(kind, repository).items():
            commit = hashlib.sha1(f"{repository}@{revision}".encode(), usedforsecurity=False).hexdigest()
            for name in (revision, commit):
                if wanted == name or wanted.startswith(f"{name}/"):
                    return folder, commit, wanted[len(name) + 1 :]
        raise Answer(404, "RevisionNotFound", f"Invalid rev id: {wanted}")


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        url = urlparse(self.path)
        path = unquote(url.path)
        try:
            for pattern, status in self.hub.answers.items():
                if re.search(pattern, path):
                    raise Answer(status, "", "as the test wants it")
            self._check_token()
            if match := API.fullmatch(path):
                self._list(match, parse_qs(url.query), body)
            elif match := FILE.fullmatch(path):
                self._file("datasets" if match[1] else "models", match[2], match[3])
            else:
                raise Answer(404)
        except Answer as answer:
            headers = {"X-Error-Code": answer.code, "X-Error-Message": answer.words}
            self._send(answer.status, {"error": answer.words}, {name: text for name, text in headers.items() if text})

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_POST(self) -> None:
        self.do_GET()

    @property
    def _token(self) -> str | None:
        return (self.headers.get("Authorization") or "").removeprefix("Bearer ") or None

    def _check_token(self) -> None:
        if self._token is not None and self._token not in self.hub.tokens:
            raise Answer(401, "", "Invalid credentials in Authorization header")

    def _send(self, status: int, content: Any, headers: dict[str, str] | None = None) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        for name, text in (headers or {}).items():
            self.send_header(name, text)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
        self.hub.log.append(Request(self.command, self.path, status, 0))

    def _list(self, match: "re.Match[str]", query: dict[str, list[str]], body: bytes) -> None:
        kind, repository, verb, rest = match.groups()
        folder, commit, inner = self.hub.commit(kind, repository, rest or "main")
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        if verb in {None, "revision"}:
            siblings = [{"rfilename": str(path.relative_to(folder))} for path in files]
            self._send(200, {"id": repository, "sha": commit, "siblings": siblings, "tags": [], "private": False})
            return
        if verb == "paths-info":
            wanted = json.loads(body)["paths"] if body[:1] == b"{" else parse_qs(body.decode())["paths"]
            chosen = [folder / name for name in wanted if (folder / name).exists()]
        else:
            base = folder / inner
            if not base.is_dir():
                raise Answer(404, "EntryNotFound", "Entry not found")
            recursive = query.get("recursive", ["false"])[0].lower() in {"true", "1"}
            chosen = sorted(base.rglob("*") if recursive else base.iterdir())
        self._send(200, [_entry(folder, path) for path in chosen])

    def _file(self, kind: str, repository: str, rest: str) -> None:
        folder, commit, name = self.hub.commit(kind, repository, rest)
        if repository in self.hub.gated and not self.hub.tokens.get(self._token or "", False):
            raise Answer(401 if self._token is None else 403, "GatedRepo", f"Access to {repository} is restricted.")
        path = folder / name
        if not path.is_file():
            raise Answer(404, "EntryNotFound", "Entry not found")
        content = path.read_bytes()
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        start = int(asked[1]) if asked else 0
        part = content[start : int(asked[2]) + 1 if asked and asked[2] else None]
        tag = f'"{hashlib.sha256(content).hexdigest()}"'
        self.send_response(206 if asked else 200)
        self.send_header("X-Repo-Commit", commit)
        self.send_header("ETag", tag)
        self.send_header("X-Linked-Etag", tag)
        self.send_header("X-Linked-Size", str(len(content)))
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(len(part)))
        if asked:
            self.send_header("Content-Range", f"bytes {start}-{start + len(part) - 1}/{len(content)}")
        self.end_headers()
        if self.command == "HEAD":
            self.hub.log.append(Request("HEAD", self.path, 200, 0))
            return
        cut = next((pattern for pattern, left in self.hub.cuts.items() if left and re.search(pattern, self.path)), None)
        if cut is not None:
            self.hub.cuts[cut] -= 1
            self.wfile.write(part[: len(part) // 3])
            self.wfile.flush()
            self.close_connection = True
            self.hub.log.append(Request("GET", self.path, 206 if asked else 200, 0))
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        self.wfile.write(part)
        self.hub.log.append(Request("GET", self.path, 206 if asked else 200, len(part)))


def _entry(folder: Path, path: Path) -> dict[str, Any]:
    name = str(path.relative_to(folder))
    if path.is_dir():
        return {"type": "directory", "path": name, "oid": "0" * 40, "size": 0}
    digest, size = hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_size
    entry: dict[str, Any] = {"type": "file", "path": name, "size": size, "oid": digest[:40]}
    return entry | ({"lfs": {"oid": digest, "size": size, "pointerSize": 134}} if name.endswith(LARGE) else {})
