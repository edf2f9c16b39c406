"""Web servers of this process: with TLS by a certificate that nobody knows, or as a proxy in front of a server."""

from __future__ import annotations

import datetime
import ipaddress
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import requests
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


def certificate(file: Path, address: str = "127.0.0.1") -> Path:
    """Write a certificate for an address, signed by itself, and its key to a file."""
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.datetime.now(datetime.UTC)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(address))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    kind, form, none = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    file.write_bytes(made.public_bytes(kind) + key.private_bytes(kind, form, none))
    return file


class Answer(BaseHTTPRequestHandler):
    """Answers each request with ``status``, a web page, and the address ``location`` where it is not empty."""

    status, location = 404, ""

    def do_GET(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.answer(self.status, b"<html>nothing here</html>", {"Location": self.location + self.path})

    def answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for header, value in headers.items():
            self.send_header(header, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_PUT = do_PATCH = do_DELETE = do_GET

    def log_message(self, format: str, *arguments: object) -> None:
        pass


class Proxy(Answer):
    """Passes what is below the path ``/mlflow`` on to the server at ``location``."""

    def do_GET(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if not self.path.startswith("/mlflow/"):
            self.answer(404, b"<html>no such page</html>", {})
            return
        kept = {key: value for key, value in self.headers.items() if key not in ("Host", "Content-Length")}
        url = self.location + self.path.removeprefix("/mlflow")
        passed = requests.request(self.command, url, data=body, headers=kept, timeout=60)
        self.answer(passed.status_code, passed.content, {"Content-Type": passed.headers.get("Content-Type", "")})

    do_POST = do_PUT = do_PATCH = do_DELETE = do_GET


@contextmanager
def serving(kind: type[Answer], tls: Path | None = None, **settings: object) -> Iterator[str]:
    """A server's address while it runs. ``tls``: a file that `certificate` wrote; ``settings``: the kind's fields."""
    handler = type("Handler", (kind,), settings)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        if tls:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(tls)
            server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        yield f"{'https' if tls else 'http'}://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()
