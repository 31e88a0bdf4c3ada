"""No secret is in anything that is printed, logged or kept: canaries through every command and failure.

Commands run in this process, by `cli.main` as a shell would call it, and log at DEBUG; a few run in one
of their own. Then everything that was written anywhere is searched for every canary, as it is,
percent-encoded and in base64.
"""

from __future__ import annotations

import base64
import logging
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from urllib.parse import quote

import pytest
from azure.storage.blob import ExponentialRetry
from canaries import HUB_TOKEN, PASSWORD, WRONG_KEY, World, commands, kept, write_batch
from conftest import Cli
from effort import times
from keys import make_pair
from models import cast, near, random_state, write_model
from servers.azurite import Azurite
from servers.hub import HubServer
from servers.refusing import Refusing
from servers.tokens import Certificate, Tokens

import cli as command_line
from pipeline import redaction
from pipeline.redaction import redacting
from pipeline.settings import Settings
from pipeline.storage import retry
from pipeline.storage.azure import identity as azure_identity
from pipeline.storage.azure.client import connect
from pipeline.storage.locations import parse_store

Run = Callable[..., tuple[int, bytes]]
WAYS = ["url", "github", "string", "sas"][: times(2, 4)]


@pytest.fixture(scope="module")
def servers(certificate: Certificate) -> Iterator[tuple[Azurite, Refusing, Tokens]]:
    with (
        Azurite(tls=certificate) as azurite,
        Refusing(certificate) as refusing,
        Tokens(certificate) as tokens,
    ):
        yield azurite, refusing, tokens


@pytest.fixture
def world(
    servers: tuple[Azurite, Refusing, Tokens],
    hub: HubServer,
    tmp_path: Path,
    certificate: Certificate,
    monkeypatch: pytest.MonkeyPatch,
) -> World:
    azurite, refusing, tokens = servers
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", certificate.path)
    folder = tmp_path / "work"
    state = random_state(1)
    for name, seed in (("base", 0), ("post", 2), ("new", 3)):
        write_model(folder / name, cast(near(state, seed) if seed else state))
    monkeypatch.chdir(folder)
    hub.patch_client(monkeypatch, folder / "home")
    hub.add_repo("org/base", folder / "base", gated=True, token=HUB_TOKEN)
    hub.tokens.add(HUB_TOKEN)
    make_pair(folder, "p256", password=PASSWORD)
    monkeypatch.setenv("HF_TOKEN", HUB_TOKEN)
    monkeypatch.setenv("PIPELINE_SIGN_PASSWORD", PASSWORD)
    monkeypatch.setenv("PIPELINE_LOG", "DEBUG")
    monkeypatch.setattr(azure_identity, "_made", {})
    monkeypatch.setattr(retry, "LONGEST_WAIT_S", 0.001)
    monkeypatch.setattr(ExponentialRetry, "get_backoff_time", lambda self, settings: 0.001)
    container = str(azurite.create_container().container_name)
    made = World(folder, azurite, refusing, tokens, container, azurite.sas_token())
    made.canaries.update(
        {
            "account key": azurite.account_key,
            "wrong key": WRONG_KEY,
            "SAS signature": made.sas.partition("sig=")[2].partition("&")[0],
            "Hub token": HUB_TOKEN,
            "signing password": PASSWORD,
            "client secret": tokens.client_secret,
            "request token": tokens.request_token,
        }
    )
    return made


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]) -> Run:
    """Run the command line in this process; its exit code, and all that it printed and logged."""

    def call(*words: str, env: Mapping[str, str] | None = None) -> tuple[int, bytes]:
        with monkeypatch.context() as patch:
            for name, value in (env or {}).items():
                patch.setenv(name, value)
            patch.setattr("sys.argv", ["cli.py", *words])
            patch.setattr(logging.getLogger(), "handlers", [])  # pytest's own would keep it all
            try:
                command_line.main()
                code = 0
            except SystemExit as ended:
                code = int(ended.code or 0)
        shown = capfdbinary.readouterr()
        return code, shown.out + shown.err

    return call


@pytest.mark.parametrize("way", WAYS)
def test_no_command_shows_or_keeps_a_secret_when_all_is_well(way: str, world: World, run: Run) -> None:
    place, env = world.credentials()[way]
    write_batch(world, place)
    for name, words in commands(place).items():
        words = tuple(word.replace("batch.json", "../batch.json") for word in words)
        code, shown = run(*words, env=env)
        assert code == (3 if name == "batch" else 0), shown.decode()
        assert b"DEBUG" in shown
        assert world.leaks(shown) == [], name
    assert (world.folder / "reports").is_dir()
    assert world.leaks(*kept(world)) == []


FAILURES = ("wrong key", "bad SAS", "no container", "refused", "500", "403", "not signed in")


def failure(kind: str, world: World) -> tuple[str, dict[str, str]]:
    """A place that fails so, and the environment that goes there."""
    account = {"AZURE_STORAGE_ACCOUNT_URL": world.azurite.url}
    nobody = {"AZURE_STORAGE_ACCOUNT_URL": world.refusing.url}
    refused = f"{world.refusing.url}/container"
    world.refusing.status, world.refusing.code = 403, "AuthenticationFailed"
    match kind:
        case "wrong key":
            return f"az://{world.container}", {**account, "AZURE_STORAGE_ACCOUNT_KEY": WRONG_KEY}
        case "bad SAS":
            return f"{world.place}?{world.sas.replace('sp=r', 'sp=rx')}", {}
        case "no container":
            return f"{world.azurite.url}/no-such-one?{world.sas}", {}
        case "refused":
            return f"https://127.0.0.1:1/acc/container?{world.sas}", {}
        case "500":
            world.refusing.status, world.refusing.code = 500, "InternalError"
            return f"{refused}?{world.sas}", {}
        case "403":
            return refused, {**nobody, **world.tokens.environment("github", world.folder)}
    env = {**nobody, **world.tokens.environment("github", world.folder)}
    return refused, {**env, "ACTIONS_ID_TOKEN_REQUEST_TOKEN": world.tokens.request_token + "x"}


@pytest.mark.parametrize("kind", FAILURES)
def test_no_command_shows_or_keeps_a_secret_when_it_fails(kind: str, world: World, run: Run) -> None:
    place, env = failure(kind, world)
    write_batch(world, place)
    for name, words in commands(place).items():
        words = tuple(word.replace("batch.json", "../batch.json") for word in words)
        # A traceback ends with the message that it is shown for.
        for debug in ((), ("--debug",))[kind != "bad SAS" :]:
            code, shown = run(*words, *debug, env=env)
            assert code not in (0, 1), shown.decode()
            assert world.leaks(shown) == [], name
    assert world.leaks(*kept(world)) == []


def test_what_the_command_line_itself_refuses_is_not_quoted_with_its_secrets(
    world: World, run: Run
) -> None:
    url = f"{world.place}/d.safetensors?{world.sas}"
    for words in (
        ("inspect", "./base", url),
        ("inspect", url.replace("https", "s3")),
        ("inspect", f"az://{world.container}/d?{world.sas}"),
        ("inspect", url.replace("?", "%3F")),
        ("inspect", f"./{HUB_TOKEN}"),
        ("inspect", f"https://user:{HUB_TOKEN}@127.0.0.1:1/acc/container/x?{world.sas}"),
        ("compute", "--base", url, "--post", url, "--output", url, "--dtype", HUB_TOKEN),
        ("compute", "--base", "./base", "--post", "./post", "--output", "d", "--memory", PASSWORD),
        ("apply", "--base", "./base", "--delta", f"{url}=x", "--output", "./o"),
        ("batch", url),
        ("verify", "./base", "--key", PASSWORD),
        (f"--{HUB_TOKEN}",),
        (PASSWORD,),
    ):
        for debug in ((), ("--debug",)):
            code, shown = run(*words, *debug)
            assert code not in (0, 1), (words, shown.decode())
            assert world.leaks(shown) == [], words


def test_a_wrong_hub_token_or_password_is_not_quoted(
    world: World, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    compute = commands(world.place)["compute"]
    local = (*compute[:-4], "--output", "d.safetensors")
    wrong = {"Hub token": "hf_wrongCANARYwrongCANARYwrong", "signing password": "canary that is wrong"}
    world.canaries |= {f"wrong {name}": value for name, value in wrong.items()}
    for env in (
        {"HF_TOKEN": wrong["Hub token"]},
        {"HF_TOKEN": ""},
        {"PIPELINE_SIGN_PASSWORD": wrong["signing password"]},
    ):
        for words in (local, (*local, "--sign-key", "p256-private.pem"), ("doctor",)):
            _, shown = run(*words, "--debug", env=env)
            assert world.leaks(shown) == [], words
    assert world.leaks(*kept(world)) == []


def test_in_processes_of_their_own_it_is_the_same(world: World, cli: Cli) -> None:
    place, env = world.credentials()["url"]
    words = tuple(
        word.replace("org/base", str(world.folder / "base")) for word in commands(place)["compute"]
    )
    words = tuple(word.replace("./post", str(world.folder / "post")) for word in words)[:-2]
    done = cli(*words, env=env)
    assert done.returncode == 0, done.stderr
    failed = cli(*words, "--debug", env=env)
    assert failed.returncode == 3 and "Traceback" in failed.stderr
    shown = (done.stdout + done.stderr + failed.stdout + failed.stderr).encode()
    assert b"DEBUG urllib3" in shown
    assert world.leaks(shown, *kept(world)) == []


def test_the_search_finds_what_is_not_redacted(
    world: World, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The SDK does log it: what is not found above was there to be found."""
    place, env = world.credentials()["url"]
    monkeypatch.setattr(redaction, "redact", lambda text: text)
    _, shown = run("inspect", place + "x", "--debug", env=env)
    assert "SAS signature" in world.leaks(shown)
    for name, value in world.canaries.items():
        around = base64.b64encode(b"a" + value.encode() + b"b")
        for text in (value, quote(value, safe=""), around.decode()):
            assert name in world.leaks(f"<{text}>".encode())


@pytest.mark.parametrize("way", ["key", "sas", "secret"])
def test_whole_requests_may_be_logged_by_the_sdk(
    way: str, world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Even with `logging_enable`, which writes every header as it is."""
    text, env = world.credentials()[way]
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    client = connect(parse_store(text), Settings.load().azure)
    caplog.set_level(logging.DEBUG)
    with redacting():
        assert list(client.list_blobs(logging_enable=True)) == []
    logged = "\n".join(f"{record.getMessage()} {record.args}" for record in caplog.records)
    assert "Authorization" in logged or "sig=" in logged
    assert world.leaks(logged.encode(), caplog.text.encode()) == []
