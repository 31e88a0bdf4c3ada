"""What is taken for a secret, and where it is replaced: text, logs of any logger, progress."""

from __future__ import annotations

import base64
import io
import json
import logging
import secrets
from urllib.parse import quote

import pytest

from pipeline import progress, redaction
from pipeline.redaction import MARK, redact, redacting

HUB_TOKEN = "hf_canaryCanaryCANARYcanary0123456789"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("?sv=1&sig=abc%2Fdef%3D&se=2", f"?sv=1&sig={MARK}&se=2"),
        ("AccountName=a;AccountKey=abc=;End", f"AccountName=a;AccountKey={MARK};End"),
        ("a;SharedAccessSignature=sv=1&sig=x;b", f"a;SharedAccessSignature={MARK};b"),
        ("Authorization: Bearer abcdefghijklmnop.q", f"Authorization: Bearer {MARK}"),
        ("Bearer token authentication is not permitted", None),
        ("Bearer authorization_uri=https://login/x", None),
        ("Basic dXNlcjpwYXNzd29yZA==", f"Basic {MARK}"),
        ("https://user:pass@host/x", f"https://{MARK}@host/x"),
        ("https://token@host:1/x", f"https://{MARK}@host:1/x"),
        ("hf://gpt2@main and hf://org/name@main", None),
        ("hf_raise_for_status(answer)", None),
        ("eyJhbGciOiJub25lIn0.eyJhIjoxfQ.c2ln end", f"{MARK} end"),
        (f"HF_TOKEN={HUB_TOKEN}.", f"HF_TOKEN={MARK}."),
        ("client_secret=abc&grant_type=x", f"client_secret={MARK}&grant_type=x"),
        ('{"access_token": "abc", "x": 1}', f'{{"access_token": "{MARK}", "x": 1}}'),
        ("key " + "A" * 86 + "== end", f"key {MARK} end"),
        ("a digest " + "0f" * 32, None),
        (
            "-----BEGIN PRIVATE KEY-----\nabc\n-----END PRIVATE KEY-----\nx",
            f"-----BEGIN PRIVATE KEY-----{MARK}\nx",
        ),
        ("permissions are rwlc, config.json, sigma=3, design=x", None),
    ],
)
def test_what_looks_like_a_secret_is_replaced_and_nothing_else(text: str, shown: str | None) -> None:
    assert redact(text) == (text if shown is None else shown)


def test_a_known_secret_is_replaced_in_each_of_its_forms() -> None:
    secret = f'so "secret" it+is/{secrets.token_hex(4)}'
    redaction.know(secret, None, "short")
    texts = [secret, quote(secret), quote(secret, safe="").lower(), json.dumps(secret), repr(secret)]
    texts.append(base64.b64encode(secret.encode()).decode())
    for text in texts:
        assert "secret" not in redact(f"<{text}>").replace(MARK, "")
    assert redact("a short word") == "a short word"


def test_every_logger_is_redacted_with_tracebacks_and_odd_arguments(
    capsys: pytest.CaptureFixture[str],
) -> None:
    handler = logging.StreamHandler()
    log = logging.getLogger("azure.some.where")
    log.addHandler(handler)
    try:
        with redacting():
            log.error("%s and %d", "sig=canary", 3)
            log.error({"sig": "sig=canary"})
            try:
                raise ValueError("sig=canary")
            except ValueError:
                log.exception("that was sig=canary", stack_info=True)
    finally:
        log.removeHandler(handler)
    shown = capsys.readouterr().err
    assert f"sig={MARK} and 3" in shown and "Traceback" in shown and "Stack" in shown
    assert "canary" not in shown


def test_progress_is_redacted_too() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.stderr", terminal)
        patch.setattr(progress, "QUIET_S", -1.0)
        with redacting(), progress.bar("upload of x?sig=canary", 100) as advance:
            advance(50)
            advance(50)
    assert f"sig={MARK}" in terminal.getvalue()
    assert "canary" not in terminal.getvalue()
