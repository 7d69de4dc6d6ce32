"""What a deployment finds around it."""

from __future__ import annotations

import contextlib
import http.server
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from ostiary import assets
from ostiary.demo.issuer import DemoIssuer
from ostiary.policy.archive import pack, sign
from ostiary.policy.bundle import build_bundle
from ostiary.policy.rego import Opa


@dataclass(frozen=True, kw_only=True)
class Surroundings:
    """What a deployment finds: an issuer, a server of signed bundles, and one of the services. `signing_key` is for
    the proxy, `release_key` the public half of what bundles are signed with. `published` is the server's directory,
    and `release` the file with the private half."""

    issuer: DemoIssuer
    bundles: str
    service: str
    signing_key: bytes
    release_key: str
    published: Path
    release: Path

    def sign(self, archive: Path, *, opa: Path) -> None:
        sign(archive, key=self.release, key_id="release", scope="ostiary", algorithm="ES256", opa=Opa(opa))


class Orders(http.server.BaseHTTPRequestHandler):
    """Answers with the kind of credential that it was given."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        kind = self.headers.get("authorization", "").partition(" ")[0].encode()
        self.send_response(200)
        self.send_header("content-length", str(len(kind)))
        self.end_headers()
        self.wfile.write(kind)

    def log_message(self, *_: object) -> None:
        """Nobody reads it."""


class Published(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Nobody reads it."""


@contextlib.contextmanager
def surrounded(place: Path, *, opa: Path) -> Iterator[Surroundings]:
    release, signing = ec.generate_private_key(ec.SECP256R1()), ed25519.Ed25519PrivateKey.generate()
    (place / "release.pem").write_bytes(pem(release))
    published = place / "published"
    built = build_bundle(assets.demo_bundle(), place / "bundle", opa=opa, sequence=1, rego_root=assets.rego())
    pack(built.path, published / "shop.tar.gz")
    with (
        http.server.ThreadingHTTPServer(("127.0.0.1", 0), Orders) as orders,
        http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Published, directory=published)) as bundles,
    ):
        for server in (orders, bundles):
            threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        found = Surroundings(
            issuer=DemoIssuer(place),
            bundles=f"http://127.0.0.1:{bundles.server_port}",
            service=f"http://127.0.0.1:{orders.server_port}",
            signing_key=pem(signing),
            release_key=release.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode(),
            published=published,
            release=place / "release.pem",
        )
        found.sign(published / "shop.tar.gz", opa=opa)
        yield found
        orders.shutdown()
        bundles.shutdown()


def pem(key: Any) -> bytes:
    found: bytes = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return found
