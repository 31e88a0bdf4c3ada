"""Compute into a container and apply out of it, through the fault proxy, and what may come of it.

Each command ends with exactly the bytes of an undisturbed run; or with one clear error, with nothing
published that was not there before, and nothing left that keeps the same command from succeeding later.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import torch

from pipeline import open_delta
from tests.chaos.profiles import Profile
from tests.forks import CAP_S, SMALL_AND_QUICK, Done, Forks
from tests.models import cast, near, random_state, write_model
from tests.servers.azurite import Azurite
from tests.servers.fault_proxy import Chances, FaultProxy
from tests.servers.hub import HubServer
from tests.storage.helpers import open_store

CONTAINER = "chaos"
SOURCES = ("azure", "hub")
TARGETS = ("base", "new-base")
EXIT_CODES = (3, 5, 6)  # which a network or a service may lead to
REFERENCE = "n-ref"  # as long as the name of any run's folder
LAST = "config.json"  # of a model's files, published last

Files = dict[str, bytes]


@dataclass
class Outcome:
    """What became of a run. wrong: what it should not have done; hung: which of its commands."""

    number: int
    faults: Counter[str] = field(default_factory=Counter)
    requests: int = 0
    seconds: float = 0.0
    errors: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    hung: list[str] = field(default_factory=list)
    traces: list[str] = field(default_factory=list)

    @property
    def result(self) -> str:
        """In a word or two."""
        if self.hung:
            return "hung"
        if self.wrong:
            return "wrong"
        return "failed clearly" if self.errors else "succeeded"


class Chaos:
    """Servers, models in them, and what commands run in; from `with` until its end.

    cap_s: the time that a command is given. references: what undisturbed runs wrote, as it is wanted.
    """

    def __init__(self, folder: Path, seed: int) -> None:
        self._folder, self._seed = folder, seed
        self.cap_s = CAP_S
        self.references: dict[str, Files] = {}
        self._made: set[str] = set()
        self._stack = ExitStack()

    def __enter__(self) -> Chaos:
        with ExitStack() as stack:
            self._start(stack)
            self._stack = stack.pop_all()
        return self

    def _start(self, stack: ExitStack) -> None:
        azurite = stack.enter_context(Azurite())
        hub = stack.enter_context(HubServer())
        self._azure = stack.enter_context(FaultProxy(azurite.url))
        self._hub = stack.enter_context(FaultProxy(hub.url, like="hub"))
        self._container = azurite.create_container(CONTAINER)
        self._direct = azurite
        self._make_models(hub)
        work = self._folder / "work"
        work.mkdir(parents=True)
        env = hub.env(self._folder / "home")
        env["HF_ENDPOINT"] = self._hub.url
        env["AZURE_STORAGE_CONNECTION_STRING"] = azurite.connection_string.replace(
            azurite.url, self._azure.url
        )
        local, delta = self._folder / "local", f"{self._folder}/local/delta.safetensors"
        warm_up = [self._compute_words("local", delta)]
        for target in TARGETS:
            words = self._apply_words(str(self._folder / target), delta)
            warm_up.append([*words, "--output", str(local / target)])
        self._forks = stack.enter_context(Forks(work, warm_up, env, values=SMALL_AND_QUICK, hub=True))

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _make_models(self, hub: HubServer) -> None:
        """A base, its post-trained version and a later base, in the container and on the Hub."""
        base = random_state(1, vocab=1000, width=128, layers=3)
        states = {"base": base, "post": near(base, 2), "new-base": near(base, 3, scale=1e-2)}
        for name, state in states.items():
            folder = write_model(self._folder / name, cast(state, torch.bfloat16))
            (folder / "tokenizer.json").write_text("{}")
            hub.add_repo(f"org/{name}", folder)
            for path in folder.iterdir():
                self._container.upload_blob(f"models/{name}/{path.name}", path.read_bytes())

    def _delta(self, source: str) -> str:
        """Where the delta of an undisturbed run lies: the warm-up made the same between folders."""
        delta = f"{REFERENCE}-{source}/delta"
        if delta not in self._made:
            done = self._succeed(self._compute_words(source, f"az://{CONTAINER}/{delta}"))
            with open_delta(f"{self._folder}/local/delta.safetensors") as expected:
                assert _fingerprint(done.output) == str(expected.manifest.fingerprint)
            self._made.add(delta)
        return delta

    def _reference(self, source: str, target: str | None = None) -> Files:
        """What an undisturbed run writes: its delta, or what it makes of that and a target."""
        delta, key = self._delta(source), f"{source} {target}"
        if key not in self.references and target is None:
            self.references[key] = self._found(delta)
        elif key not in self.references and target is not None:
            out = f"{REFERENCE}-{source}/out-{target}"
            words = self._apply_words(self._model("azure", target), f"az://{CONTAINER}/{delta}")
            done = self._succeed([*words, "--output", f"az://{CONTAINER}/{out}"])
            expected_report = (self._folder / "local" / target / "paramdelta.json").read_text()
            assert _fingerprint(done.output) == _fingerprint(expected_report)
            self.references[key] = self._found(out)
        return self.references[key]

    def _succeed(self, words: list[str]) -> Done:
        done = self._forks.run(*words)
        assert done.code == 0, done.errors
        return done

    # -- one run --------------------------------------------------------------------------------

    def run(self, number: int, profile: Profile, rate: float | None = None) -> Outcome:
        """Both commands, each with a second chance without faults if it failed."""
        rng = random.Random(f"{self._seed}-{number}")
        source, target, overwrite = rng.choice(SOURCES), rng.choice(TARGETS), rng.random() < 0.3
        place, outcome = f"n{number:04d}-{source}", Outcome(number)
        right = self._reference(source), self._reference(source, target)
        delta, out = f"{place}/delta", f"{place}/out-{target}"
        if overwrite:
            self._container.upload_blob(delta, b"old")
            for name in ("old.safetensors", "model.safetensors.index.json", LAST):
                self._container.upload_blob(f"{out}/{name}", b"old")
        extra = ["--overwrite"] if overwrite else []
        rate = profile.rate if rate is None else rate
        azure, hub = (
            Chances(f"{self._seed}-{number} {what}", rate, profile.faults) for what in ("azure", "hub")
        )
        self._chances = ((self._azure, azure), (self._hub, hub))
        for proxy, _ in self._chances:
            proxy.clear()
        words = self._compute_words(source, f"az://{CONTAINER}/{delta}") + extra
        self._attempt(outcome, "compute", words, delta, right[0])
        words = self._apply_words(self._model("azure", target), f"az://{CONTAINER}/{delta}") + extra
        words += ["--output", f"az://{CONTAINER}/{out}"]
        if not outcome.wrong and not outcome.hung:
            self._attempt(outcome, "apply", words, out, right[1])
        if outcome.result in ("succeeded", "failed clearly"):
            for name in [*self._container.list_blob_names(name_starts_with=f"{place}/")]:
                self._container.delete_blob(name)
        return outcome

    def _attempt(self, outcome: Outcome, what: str, words: list[str], place: str, right: Files) -> None:
        before = self._found(place)
        done = self._disturbed(outcome, words)
        outcome.seconds += done.seconds
        if done.code == 0:
            self._compare(outcome, what, place, right)
            return
        error = done.errors.strip().rpartition("\n")[2]
        if done.code is None:
            outcome.hung.append(what)
            outcome.traces.append(done.errors)
        else:
            outcome.errors.append(f"{what}: {error}")
            clear = done.code in EXIT_CODES and error.startswith("error: ") and error.endswith(")")
            if not clear or "Traceback" in done.errors:
                outcome.wrong.append(f"{what}: exit code {done.code}: {error[:400]}")
                outcome.traces.append(done.errors)
        found = self._found(place)
        if found != before and self._looks_published(place, found):
            outcome.wrong.append(f"{what}: failed, and has published {sorted(found)}")
        again = self._forks.run(*words)
        if again.code == 0:
            self._compare(outcome, f"{what} again", place, right)
        elif again.code == 3 and _but_for_card(found) == _but_for_card(self._as_named(right, place)):
            return  # it had won, and could not learn of it
        else:
            outcome.wrong.append(f"{what} again: {again.code}: {again.errors.strip()[-400:]}")

    def _disturbed(self, outcome: Outcome, words: list[str]) -> Done:
        for proxy, chances in self._chances:
            proxy.chances = chances
        done = self._forks.run(*words, cap_s=self.cap_s)
        for proxy, _ in self._chances:
            outcome.requests += len(proxy.log)
            outcome.faults.update(hit.fault for hit in proxy.log if hit.fault)
            proxy.clear()
        return done

    def _compare(self, outcome: Outcome, what: str, place: str, right: Files) -> None:
        found, right = _but_for_card(self._found(place)), _but_for_card(self._as_named(right, place))
        if found != right:
            names = sorted(found.keys() ^ right.keys())
            differ = sorted(name for name in found.keys() & right.keys() if found[name] != right[name])
            outcome.wrong.append(f"{what}: other files {names}, other bytes in {differ}")

    def _looks_published(self, place: str, found: Files) -> bool:
        """Whether a reader would take it for a delta, or for a whole model."""
        if set(found) == {""}:
            return True
        url = f"{self._direct.url}/{CONTAINER}/{place}"
        store = open_store(url, AZURE_STORAGE_ACCOUNT_KEY=self._direct.account_key)
        return LAST in found and store.published() is not None

    # -- words and bytes ------------------------------------------------------------------------

    def _model(self, source: str, name: str) -> str:
        places = {"azure": f"az://{CONTAINER}/models/{name}", "hub": f"hf://org/{name}"}
        return places.get(source, str(self._folder / name))

    def _compute_words(self, source: str, output: str) -> list[str]:
        base, post = (self._model(source, name) for name in ("base", "post"))
        words = ["compute", "--base", base, "--post", post, "--output", output]
        return [*words, "--workers", "2", "--format", "json"]

    def _apply_words(self, base: str, delta: str) -> list[str]:
        words = ["apply", "--base", base, "--delta", delta, "--shard-size", "300KB"]
        return [*words, "--workers", "2", "--format", "json"]

    def _found(self, place: str) -> Files:
        """What lies at a place: a blob (under the name "") or those of a folder."""
        return dict(self._blobs(place))

    def _blobs(self, place: str) -> Iterator[tuple[str, bytes]]:
        for name in self._container.list_blob_names(name_starts_with=place):
            if name == place or name.startswith(f"{place}/"):
                data = self._container.download_blob(name).readall()
                yield name.removeprefix(place).removeprefix("/"), data

    def _as_named(self, right: Files, place: str) -> Files:
        """The reference, as if it lay at `place`: cards and reports name locations."""
        own = place.partition("-")[0].encode()
        return {name: data.replace(REFERENCE.encode(), own) for name, data in right.items()}


def _but_for_card(files: Files) -> Files:
    """The files, the manifest without the digests of the card, which names a location, and of itself."""
    manifest = json.loads(files.get("paramdelta.json", b"{}"))
    manifest.get("files", {}).pop("README.md", None)
    manifest.pop("digest", None)
    return {**files, "paramdelta.json": json.dumps(manifest).encode()}


def _fingerprint(report: str) -> str:
    return str(json.loads(report)["fingerprint"])
