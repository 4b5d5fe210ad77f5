"""W&B servers of our own: one that answers as far as a run needs it, and ones that do not."""

import gzip
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

KEY = "0123456789abcdef" * 2 + "k" * 8
"""Of the form that W&B's own check wants."""
BUCKET = {
    "id": "b",
    "name": "r",
    "displayName": "r",
    "description": None,
    "config": "{}",
    "sweepName": None,
    "historyLineCount": 0,
    "project": {"id": "p", "name": "p", "entity": {"id": "e", "name": "me"}},
}
ANSWERS = {
    "viewer": {"viewer": {"id": "u", "username": "me", "entity": "me", "flags": "{}", "teams": {"edges": []}}},
    "RunResumeStatus": {"model": None},
    "UpsertBucket": {"upsertBucket": {"bucket": BUCKET, "inserted": True}},
}


class Server(ThreadingHTTPServer):
    """Keeps what it was told; stands in for a W&B server of one user."""

    daemon_threads = True

    def __init__(self, *, status: int = 200) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.status, self.silent = status, threading.Event()
        self.buckets: list[dict] = []
        self.rows: list[dict] = []
        self.artifacts: list[dict] = []
        self.resumed: list[str] = []
        self.exit_codes: list[int] = []
        self.asked = 0

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, request, client_address) -> None:
        """A client that hangs up is not told."""

    def answer(self, path: str, body: dict) -> dict:
        self.asked += 1
        query = body.get("query", "")
        if path.endswith("file_stream"):
            lines = body.get("files", {}).get("wandb-history.jsonl", {}).get("content", [])
            self.rows += [json.loads(line) for line in lines]
            self.exit_codes += [body["exitcode"]] if body.get("complete") else []
            return {}
        if "mutation UpsertBucket" in query:
            self.buckets.append(body["variables"])
        if "mutation CreateArtifact" in query:
            self.artifacts.append(body["variables"]["input"])
        if "query RunResumeStatus" in query:
            self.resumed.append(body["variables"]["name"])
        for name, data in ANSWERS.items():
            if name.lower() in query.lower():
                return {"data": data}
        return {"errors": [{"message": "not here"}]}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def do_POST(self) -> None:
        content = self.rfile.read(int(self.headers.get("content-length") or 0))
        if self.server.silent.is_set():
            threading.Event().wait(600)
        if self.headers.get("content-encoding") == "gzip":
            content = gzip.decompress(content)
        known = self.path == "/graphql" or self.path.endswith("file_stream")
        answer = json.dumps(self.server.answer(self.path, json.loads(content)) if known else {}).encode()
        self.send_response(self.server.status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    do_GET = do_PUT = do_POST  # noqa: N815 - http.server's names

    def log_message(self, *_) -> None:
        """Nothing."""


@contextmanager
def serving(**options) -> Iterator[Server]:
    """A server in a thread."""
    with Server(**options) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield server
        finally:
            server.shutdown()


@contextmanager
def saying(answer: bytes) -> Iterator[str]:
    """The address of a server that answers every connection with some bytes and closes it."""

    def serve() -> None:
        while True:
            try:
                connection, _ = listening.accept()
            except OSError:
                return
            with connection:
                connection.recv(65536)
                connection.sendall(answer)
                connection.shutdown(socket.SHUT_WR)
                while connection.recv(65536):  # to the end, or what is sent is lost with the connection
                    pass

    with socket.create_server(("127.0.0.1", 0), backlog=50) as listening:
        threading.Thread(target=serve, daemon=True).start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        listening.shutdown(socket.SHUT_RDWR)


@contextmanager
def accepting() -> Iterator[str]:
    """The address of a server that takes every connection and never answers."""
    with socket.create_server(("127.0.0.1", 0), backlog=50) as listening:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
