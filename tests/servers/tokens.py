"""A local token endpoint: Microsoft Entra, a managed identity and GitHub's ID tokens, and their TLS.

`Tokens` answers, over HTTPS with a certificate of its own making:

* `POST /TENANT/oauth2/v2.0/token`: Entra. Checks client id, secret or assertion, grants a token.
* `GET /github?...&audience=...`: GitHub's ID tokens, for the bearer `request_token`. Each is fresh, and
  good for one grant.

and over plain HTTP, as on the machines that have one,

* `GET /identity?resource=...`: a managed identity, for the header X-IDENTITY-HEADER.

Access tokens are unsigned JWTs as Azurite wants them; `lifetime` is how long one lives. `log` has what
was asked, by kind. `refuse` makes Entra answer with that AADSTS code.
"""

from __future__ import annotations

import base64
import ipaddress
import json
import secrets
import ssl
import threading
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

TENANT, CLIENT = "11111111-2222-3333-4444-555555555555", "aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee"
OBJECT = "99999999-8888-7777-6666-555555555555"
STORAGE = "https://storage.azure.com"


@dataclass(frozen=True)
class Certificate:
    """A self-signed certificate for 127.0.0.1 and localhost, and its key, in PEM files."""

    path: str
    key_path: str

    @classmethod
    def make(cls, folder: Path) -> Certificate:
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
        now = datetime.now(UTC)
        builder = x509.CertificateBuilder(
            name, name, key.public_key(), x509.random_serial_number(), now, now + timedelta(days=1)
        )
        names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        builder = builder.add_extension(x509.BasicConstraints(True, None), critical=True)
        encoding, none = serialization.Encoding.PEM, serialization.NoEncryption()
        certificate, private = folder / "certificate.pem", folder / "certificate-key.pem"
        certificate.write_bytes(builder.sign(key, hashes.SHA256()).public_bytes(encoding))
        private.write_bytes(key.private_bytes(encoding, serialization.PrivateFormat.PKCS8, none))
        return cls(str(certificate), str(private))

    def context(self) -> ssl.SSLContext:
        """What a server needs to show it."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.path, self.key_path)
        return context


def jwt(**claims: Any) -> str:
    """An unsigned JWT."""
    parts = ({"alg": "none", "typ": "JWT"}, claims)
    texts = [base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in parts]
    return ".".join([*texts, "c2lnbmF0dXJl"])


class Tokens:
    """The endpoints, from `with` until its end."""

    def __init__(self, certificate: Certificate, *, lifetime: float = 3600) -> None:
        self.certificate = certificate
        self.lifetime = lifetime
        self.client_secret = f"canary-secret-{secrets.token_hex(12)}"
        self.request_token = f"canary-request-{secrets.token_hex(12)}"
        self.identity_header = f"canary-header-{secrets.token_hex(12)}"
        self.federated = jwt(sub="system:serviceaccount:jobs:pipeline", nonce=secrets.token_hex(8))
        self.tenant = TENANT
        self.refuse: tuple[int, str] | None = None
        self.log: list[str] = []
        self.issued: list[str] = []
        self.id_tokens: set[str] = set()
        self._servers: list[ThreadingHTTPServer] = []

    def __enter__(self) -> Tokens:
        for context in (self.certificate.context(), None):
            handler = type("TokensHandler", (_Handler,), {"tokens": self})
            server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
            server.daemon_threads = True
            if context is not None:
                server.socket = context.wrap_socket(server.socket, server_side=True)
            self._servers.append(server)
            threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        while self._servers:
            server = self._servers.pop()
            server.shutdown()
            server.server_close()

    # -- the environment of each way to sign in -------------------------------------------------

    def environment(self, way: str, folder: Path) -> dict[str, str]:
        """What makes azure-identity, or the pipeline, take this way; files it needs go to `folder`."""
        secure, plain = (f"127.0.0.1:{server.server_port}" for server in self._servers)
        entra = {
            "AZURE_AUTHORITY_HOST": f"https://{secure}",
            "AZURE_TENANT_ID": TENANT,
            "AZURE_CLIENT_ID": CLIENT,
        }
        trust = {"REQUESTS_CA_BUNDLE": self.certificate.path}
        match way:
            case "secret":
                return {**trust, **entra, "AZURE_CLIENT_SECRET": self.client_secret}
            case "workload":
                path = folder / "federated-token"
                path.write_text(self.federated)
                return {**trust, **entra, "AZURE_FEDERATED_TOKEN_FILE": str(path)}
            case "managed":
                endpoint = {"IDENTITY_ENDPOINT": f"http://{plain}/identity"}
                return {**trust, **endpoint, "IDENTITY_HEADER": self.identity_header}
            case "az":
                return {**trust, "AZURE_TOKEN_CREDENTIALS": "AzureCliCredential"}
            case "github":
                return {
                    **trust,
                    **entra,
                    "ACTIONS_ID_TOKEN_REQUEST_URL": f"https://{secure}/github?api-version=2.0",
                    "ACTIONS_ID_TOKEN_REQUEST_TOKEN": self.request_token,
                }
        raise ValueError(way)

    def write_az(self, folder: Path) -> None:
        """A script `az` in `folder` that gives tokens as the real one does, and counts its calls."""
        token = self.grant("az")
        answer = {"accessToken": token, "expires_on": int(time.time() + self.lifetime), "tenant": TENANT}
        script = folder / "az"
        script.write_text(f"#!/bin/sh\necho . >>'{folder}/az-calls'\necho '{json.dumps(answer)}'\n")
        script.chmod(0o755)

    # -- what is granted ------------------------------------------------------------------------

    def grant(self, kind: str, audience: str = STORAGE) -> str:
        """An access token for storage."""
        self.log.append(kind)
        now = int(time.time())
        token = jwt(
            aud=audience,
            iss=f"https://sts.windows.net/{self.tenant}/",
            iat=now,
            nbf=now - 5,
            exp=now + self.lifetime + 1,  # the answer says less, so that none is used too late
            tid=self.tenant,
            oid=OBJECT,
            jti=secrets.token_hex(8),
        )
        self.issued.append(token)
        return token


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    tokens: Tokens

    def do_POST(self) -> None:
        tokens = self.tokens
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        asked = {name: values[0] for name, values in parse_qs(body).items()}
        if tokens.refuse:
            return self._answer(tokens.refuse[0], {"error": "x", "error_description": tokens.refuse[1]})
        assertion = asked.get("client_assertion")
        if asked.get("client_secret") == tokens.client_secret:
            kind = "secret"
        elif assertion == tokens.federated:
            kind = "workload"
        elif assertion in tokens.id_tokens:
            tokens.id_tokens.remove(assertion)
            kind = "github"
        else:
            text = "AADSTS7000215: Invalid client secret provided."
            return self._answer(401, {"error": "invalid_client", "error_description": text})
        assert asked["client_id"] == CLIENT
        assert self.path.startswith(f"/{TENANT}/")
        granted = tokens.grant(kind)
        times = {"expires_in": int(tokens.lifetime), "ext_expires_in": int(tokens.lifetime)}
        return self._answer(200, {"token_type": "Bearer", "access_token": granted, **times})

    def do_GET(self) -> None:
        tokens, url = self.tokens, urlsplit(self.path)
        asked = {name: values[0] for name, values in parse_qs(url.query).items()}
        if url.path == "/github":
            allowed = self.headers.get("Authorization") == f"Bearer {tokens.request_token}"
            if not allowed or asked.get("audience") != "api://AzureADTokenExchange":
                return self._answer(403, {"message": "not allowed"})
            tokens.log.append("id token")
            fresh = jwt(sub="repo:org/name:environment:release", nonce=secrets.token_hex(8))
            tokens.id_tokens.add(fresh)
            return self._answer(200, {"value": fresh})
        if url.path == "/identity" and self.headers.get("X-IDENTITY-HEADER") == tokens.identity_header:
            granted = tokens.grant("managed")
            expires = str(int(time.time() + tokens.lifetime))
            answer = {"access_token": granted, "expires_on": expires, "token_type": "Bearer"}
            return self._answer(200, {**answer, "resource": asked["resource"]})
        # Discovery of the tenant, which MSAL asks for.
        place = f"https://{self.headers['Host']}/{TENANT}"
        return self._answer(
            200,
            {
                "token_endpoint": f"{place}/oauth2/v2.0/token",
                "authorization_endpoint": f"{place}/oauth2/v2.0/authorize",
                "issuer": f"{place}/v2.0",
            },
        )

    def _answer(self, status: int, content: Any) -> None:
        data = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        """What was asked is in `Tokens.log`."""
