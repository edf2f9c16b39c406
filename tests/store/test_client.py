"""A server that is addressed wrongly: the message says what to write, not what a library raised."""

from __future__ import annotations

from pathlib import Path

import pytest
from tls import Answer, certificate, serving

from tune_lt.errors import InputError
from tune_lt.store import Store

pytestmark = pytest.mark.long


def _problem(uri: str) -> str:
    with pytest.raises(InputError) as caught:
        Store(uri, write=False)
    return str(caught.value)


@pytest.mark.parametrize("status", [200, 404, 405])
def test_a_server_of_something_else_may_have_mlflow_behind_a_path(status: int) -> None:
    with serving(Answer, status=status) as uri:
        assert "the URI with that path, such as https://host/mlflow" in _problem(uri)


def test_tls_and_plain_http_are_told_apart(tmp_path: Path) -> None:
    with serving(Answer, certificate(tmp_path / "own.pem")) as uri:
        plain = uri.replace("https://", "http://ada:secret@") + "/mlflow"
        assert _problem(plain).endswith(f"speaks TLS; valid: {uri.replace('//', '//ada:***@')}/mlflow")
    with serving(Answer) as uri:
        assert _problem(uri.replace("http:", "https:")).endswith(f"plain HTTP, valid: {uri}")


def test_a_certificate_that_is_not_accepted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own, others = certificate(tmp_path / "own.pem"), certificate(tmp_path / "others.pem", "10.0.0.1")
    with serving(Answer, own) as uri:
        told = _problem(uri)
        assert "certificate that is not accepted (self-signed certificate)" in told
        assert "in MLFLOW_TRACKING_SERVER_CERT_PATH" in told
        monkeypatch.setenv("MLFLOW_TRACKING_SERVER_CERT_PATH", str(own))
        assert "not as an MLflow server does" in _problem(uri)
    monkeypatch.setenv("MLFLOW_TRACKING_SERVER_CERT_PATH", str(others))
    with serving(Answer, others) as uri:
        assert "IP address mismatch" in _problem(uri)
    monkeypatch.setenv("MLFLOW_TRACKING_SERVER_CERT_PATH", str(tmp_path / "none.pem"))
    assert f"MLFLOW_TRACKING_SERVER_CERT_PATH: found {tmp_path / 'none.pem'}" in _problem("https://127.0.0.1:1")


def test_nobody_there() -> None:
    with serving(Answer, status=502) as uri:
        assert "answers with HTTP status 502; the log of the server" in _problem(uri)
    assert "does not answer (Connection refused)" in _problem("http://127.0.0.1:1")
