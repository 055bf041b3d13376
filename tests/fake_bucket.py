"""A bucket on this machine: the part of Google Cloud Storage's JSON API that we use.

gcsfs and TensorStore talk to it as they talk to the real one, each in its own way; what
is told to them is an address in the environment, which child processes inherit.
"""

import functools
import json
import re
import threading
import urllib.parse
import zlib
from base64 import b64encode
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

_OBJECT = re.compile(r"(?:/download)?/storage/v1/b/([^/]+)/o/([^/]+)")
_LIST = re.compile(r"/(upload/)?storage/v1/b/([^/]+)/o")
_ID = "upload_id"


class Object(NamedTuple):
    """What lies under a name."""

    data: bytes
    generation: int


class Bucket:
    """The objects of all buckets by "bucket/name", and what is wrong with them."""

    def __init__(self):
        self.objects: dict[str, Object] = {}
        self.begun: dict[
            str, list[Any]
        ] = {}  # uploads that go on over several requests
        self.lock = threading.Lock()
        self.known = {"bucket"}
        self.failing = 0  # requests that are yet to be refused for a moment
        self.denied = False
        self.asked: list[tuple[str, str]] = []  # (method, name) of every request
        self._last = 0

    def put(self, name: str, data: bytes) -> Object:
        """Replaces an object; its generation grows."""
        with self.lock:
            self._last += 1
            self.objects[name] = Object(bytes(data), self._last)
            return self.objects[name]

    def names(self, prefix: str = "") -> list[str]:
        """The names below a prefix, sorted."""
        with self.lock:
            return sorted(name for name in self.objects if name.startswith(prefix))


def about(name: str, found: Object) -> dict:
    """What the service says of an object."""
    bucket, _, path = name.partition("/")
    return {
        "kind": "storage#object",
        "id": f"{name}/{found.generation}",
        "name": path,
        "bucket": bucket,
        "size": str(len(found.data)),
        "generation": str(found.generation),
        "metageneration": "1",
        "contentType": "application/octet-stream",
        "updated": "2026-01-01T00:00:00.000Z",
        "timeCreated": "2026-01-01T00:00:00.000Z",
        "crc32c": b64encode(zlib.crc32(found.data).to_bytes(4)).decode(),
        "etag": str(found.generation),
    }


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    bucket: Bucket

    def log_message(self, *words):
        del words

    def _answer(self, code: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(code)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _json(self, value: dict, code: int = 200) -> None:
        self._answer(code, json.dumps(value).encode(), Content_Type="application/json")

    def _error(self, code: int, text: str) -> None:
        self._json({"error": {"code": code, "message": text}}, code)

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _any(self) -> None:
        body = self._body()
        url = urllib.parse.urlsplit(self.path)
        asked = {k: v[0] for k, v in urllib.parse.parse_qs(url.query).items()}
        self.bucket.asked.append((self.command, urllib.parse.unquote(url.path)))
        if self.bucket.denied:
            return self._error(403, "the caller has no storage.objects access")
        with self.bucket.lock:
            self.bucket.failing -= (failing := self.bucket.failing > 0)
        if failing:
            return self._error(503, "backend error")
        self._route(url.path, asked, body)

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _any

    def _route(self, path: str, asked: dict[str, str], body: bytes) -> None:
        if found := _OBJECT.fullmatch(path):
            bucket, name = map(urllib.parse.unquote, found.groups())
            return self._object(f"{bucket}/{name}", asked)
        if found := _LIST.fullmatch(path):
            if found[2] not in self.bucket.known:
                return self._error(404, "The specified bucket does not exist.")
            if found[1]:
                return self._upload(found[2], asked, body)
            return self._list(found[2], asked)
        if path.startswith("/storage/v1/b/"):
            name = path.rpartition("/")[2]
            if name not in self.bucket.known:
                return self._error(404, "The specified bucket does not exist.")
            return self._json({"name": name, "kind": "storage#bucket"})
        self._error(404, f"nothing at {path}")

    def _matches(self, name: str, asked: dict[str, str]) -> bool:
        now = self.bucket.objects.get(name)
        wanted = asked.get("ifGenerationMatch")
        return wanted is None or int(wanted) == (now.generation if now else 0)

    def _object(self, name: str, asked: dict[str, str]) -> None:
        found = self.bucket.objects.get(name)
        if found is None:
            return self._error(404, f"No such object: {name}")
        if not self._matches(name, asked):
            return self._error(412, "conditionNotMet")
        if self.command == "DELETE":
            self.bucket.objects.pop(name, None)
            return self._answer(204)
        if asked.get("alt") != "media":
            return self._json(about(name, found))
        if asked.get("ifGenerationNotMatch") == str(found.generation):
            return self._answer(304)
        told = {"X_Goog_Generation": str(found.generation)}
        part = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range") or "")
        if not part:
            return self._answer(200, found.data, **told)
        size = len(found.data)
        first = int(part[1]) if part[1] else max(size - int(part[2]), 0)
        last = int(part[2]) if part[1] and part[2] else size - 1
        if first >= size:
            return self._answer(416)
        data = found.data[first : last + 1]
        told["Content_Range"] = f"bytes {first}-{first + len(data) - 1}/{size}"
        self._answer(206, data, **told)

    def _list(self, bucket: str, asked: dict[str, str]) -> None:
        prefix, mark = asked.get("prefix", ""), asked.get("delimiter")
        items, below = [], set()
        for name in self.bucket.names(f"{bucket}/{prefix}"):
            path = name.partition("/")[2]
            if path < asked.get("startOffset", ""):
                continue
            if mark and mark in path[len(prefix) :]:
                below.add(prefix + path[len(prefix) :].partition(mark)[0] + mark)
            elif found := self.bucket.objects.get(name):
                items.append(about(name, found))
        number = int(asked.get("maxResults", len(items) or 1))
        self._json({"items": items[:number], "prefixes": sorted(below)})

    def _upload(self, bucket: str, asked: dict[str, str], body: bytes) -> None:
        name, kind, key = asked.get("name", ""), asked.get("uploadType"), asked.get(_ID)
        if key is not None:
            return self._more(key, body)
        if kind == "multipart":  # gcsfs: JSON, then the bytes
            mark = b"\n--" + self.headers["Content-Type"].split('"')[1].encode()
            _, _, record = body.split(mark)[0].partition(b"\n\n")
            name = json.loads(record)["name"]
            body = body[len(body.split(mark)[0]) + len(mark) :]
            body = body.partition(b"\n\n")[2].removesuffix(mark + b"--")
        elif kind == "resumable":
            name = name or json.loads(body)["name"]
            key = str(len(self.bucket.begun))
            self.bucket.begun[key] = [f"{bucket}/{name}", asked, b""]
            host = f"http://{self.headers['Host']}/upload/storage/v1/b/{bucket}/o"
            return self._answer(200, Location=f"{host}?{_ID}={key}")
        self._put(f"{bucket}/{name}", asked, body)

    def _more(self, key: str, body: bytes) -> None:
        """A part of an upload, whose size is `*` until the last."""
        begun = self.bucket.begun[key]
        begun[2] += body
        if (self.headers.get("Content-Range") or "").endswith("/*"):
            return self._answer(308, Range=f"bytes=0-{len(begun[2]) - 1}")
        self._put(*begun)

    def _put(self, name: str, asked: dict[str, str], body: bytes) -> None:
        if not self._matches(name, asked):
            return self._error(412, "conditionNotMet")
        self._json(about(name, self.bucket.put(name, body)))


@functools.cache
def serving() -> tuple[Bucket, dict[str, str]]:
    """A bucket and the environment in which `gs://bucket/...` is it.

    One a process: what talks to it asks for its address once.
    """
    handler = type("Handler", (_Handler,), {"bucket": Bucket()})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    place = f"http://127.0.0.1:{server.server_address[1]}"
    told = {
        "STORAGE_EMULATOR_HOST": place,
        "TENSORSTORE_GCS_HTTP_URL": place,
        "GOOGLE_AUTH_TOKEN_FOR_TESTING": "nobody",
        "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",  # asks Google what a bucket is
    }
    return handler.bucket, told
