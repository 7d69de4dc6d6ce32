"""Publishing bundles, one in the place of another, for an OPA to take over."""

from __future__ import annotations

import contextlib
import http.server
import io
import json
import shutil
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ostiary.decision.revision import Revision


def stamped(bundle: Path, out: Path, *, sequence: int) -> Revision:
    """Put a copy of `bundle` in the place of the bundle `out`, whole, as the builder does, with this sequence."""
    beside = out.with_name(f".{out.name}")
    shutil.copytree(bundle, beside)
    manifest = beside / ".manifest"
    document = json.loads(manifest.read_text(encoding="utf-8"))
    before = Revision.parse(document["revision"])
    if before is None:
        raise ValueError(f"{bundle} has no revision")
    revision = Revision(sequence, before.digest)
    manifest.write_text(json.dumps(document | {"revision": str(revision)}), encoding="utf-8")
    shutil.rmtree(out, ignore_errors=True)
    beside.rename(out)
    return revision


def packed(bundle: Path) -> bytes:
    """As a bundle server has it: a tar archive without the tests, compressed."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz", compresslevel=1) as archive:
        archive.add(bundle, arcname=".", filter=lambda member: None if member.name.endswith("_test.rego") else member)
    return buffer.getvalue()


class BundleServer:
    """Serves one bundle, and 304 to whoever has it already (RFC 9110, section 13.1.2). Any path will do."""

    def __init__(self, content: bytes, tag: str) -> None:
        self.publish(content, tag)
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), self._handler())

    def publish(self, content: bytes, tag: str) -> None:
        """From now on. `tag` names the content, as an `ETag` does."""
        self._published = content, f'"{tag}"'  # in one, so that neither is sent with the other's successor

    @property
    def port(self) -> int:
        return self._server.server_port

    @contextlib.contextmanager
    def serving(self) -> Iterator[None]:
        thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield
        finally:
            self._server.shutdown()
            thread.join()
            self._server.server_close()

    def _handler(self) -> type[http.server.BaseHTTPRequestHandler]:
        server = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                content, tag = server._published
                known = self.headers.get("If-None-Match") == tag
                self.send_response(304 if known else 200)
                self.send_header("ETag", tag)
                if known:
                    self.end_headers()
                    return
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, format: str, *args: Any) -> None: ...  # noqa: A002 - the library's name

        return Handler
