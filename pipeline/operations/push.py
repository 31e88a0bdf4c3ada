"""push: a finished delta, model or adapter, wherever it lies, to the Hub by one commit."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import Self

from pipeline.checkpoints.checkpoint import open_files
from pipeline.checkpoints.files import ADAPTER_CONFIG, INDEXES, PICKLES, SAFETENSORS, find_weights
from pipeline.deltas.delta import open_delta
from pipeline.deltas.signing import SUFFIX
from pipeline.errors import IsAnAdapter, NotACheckpoint, PipelineError, UsageError
from pipeline.operations.arguments import names_a_delta
from pipeline.operations.outputs.card import CARD, delta_card
from pipeline.operations.outputs.signatures import find_signature
from pipeline.operations.setup import Setup
from pipeline.settings import DEFAULT_STORE, Settings
from pipeline.storage.hub.access import check_may_push
from pipeline.storage.hub.pushing import HubTarget, Upload
from pipeline.storage.hub.pushing import push as push_files
from pipeline.storage.locations import Scheme, parse_delta, parse_output_model, parse_store
from pipeline.storage.opening import open_parent


@dataclass(frozen=True, slots=True)
class PushReport:
    """What push did. pushed: the commit's URL; files: all that it is to have."""

    location: str
    repository: str
    files: Sequence[str]
    pushed: str


def push(
    location: str,
    repo: str,
    *,
    private: bool = False,
    revision: str | None = None,
    store: str | None = None,
    overwrite: bool = False,
) -> PushReport:
    """Push what is at `location` to the Hub repository `repo`, in one commit.

    It is a delta, or the folder of a model or of an adapter.

    The repository and the branch `revision` are made if they are missing. A delta gets a card, and its
    signature goes with it. private: what a new repository is to be. Files that the branch has with
    another content are replaced only with `overwrite`; of a model, other weights are then removed.
    Raises the errors of `pipeline.errors`; on any of them the branch stays as it was.
    """
    target = HubTarget.parse(repo, revision=revision, private=private)
    wanted = HubPush.to(target, Settings.load(store=store), overwrite=overwrite)
    return wanted.delta(location) if names_a_delta(location) else wanted.model(location)


@dataclass(frozen=True, slots=True)
class HubPush:
    """What is wanted of the Hub once an output is published."""

    target: HubTarget
    settings: Settings
    overwrite: bool

    @classmethod
    def to(cls, target: HubTarget, settings: Settings, *, overwrite: bool) -> Self:
        """The push to `target`. Raises AccessError if it is bound to fail."""
        check_may_push(target, settings.hub_token)
        return cls(target, settings, overwrite)

    @classmethod
    def wanted(cls, setup: Setup) -> Self | None:
        """The push that the options ask for, None if there is to be none. Raises AccessError."""
        if setup.push_to_hub is None:
            if setup.private or setup.revision is not None:
                raise UsageError(
                    "--private and --revision are about a push", hint="add --push-to-hub org/name"
                )
            return None
        target = HubTarget.parse(setup.push_to_hub, revision=setup.revision, private=setup.private)
        return cls.to(target, setup.settings, overwrite=setup.overwrite)

    def delta(self, location: str) -> PushReport:
        """Push the delta at `location`, its signature if it has one, and a card."""
        where = parse_delta(location)
        in_store = where.scheme is Scheme.STORE
        with ExitStack() as stack, self._saying_how_to_go_on(str(where), in_store=in_store):
            delta = stack.enter_context(open_delta(location, settings=self.settings))
            store, path = open_parent(where, self.settings)
            name = path.rpartition("/")[2]
            uploads = [Upload(name, delta.reader)]
            signature = find_signature(store, path)
            if signature is not None:
                uploads.append(Upload(name + SUFFIX, signature))
            card = delta_card(name, delta.manifest, repo=self.target.repo)
            uploads.append(Upload(CARD, card.encode()))
            return self._push(str(where), uploads)

    def model(self, location: str) -> PushReport:
        """Push the folder of a model or an adapter at `location`: every file of it."""
        where = parse_output_model(location)
        with ExitStack() as stack, self._saying_how_to_go_on(str(where)):
            folder = open_files(where, self.settings)
            with suppress(IsAnAdapter):  # which is pushed as models are
                find_weights(folder)  # else it is no model
            uploads = []
            for blob in list(folder.list()):
                reader = folder.open(blob.name)
                stack.callback(reader.close)
                uploads.append(Upload(blob.name, reader))
            return self._push(str(where), uploads, is_model=True)

    def _push(self, location: str, uploads: Sequence[Upload], *, is_model: bool = False) -> PushReport:
        names = [upload.name for upload in uploads]
        address = push_files(
            self.target,
            uploads,
            message=f"{'Model' if is_model else 'Delta'} by Param∆ Pipeline",
            token=self.settings.hub_token,
            overwrite=self.overwrite,
            rivals=_may_be_weights if is_model else lambda name: False,
        )
        return PushReport(location, str(self.target), names, address)

    @contextmanager
    def _saying_how_to_go_on(self, location: str, *, in_store: bool = False) -> Iterator[None]:
        """What was to be pushed is finished, and stays: an error says so."""
        try:
            yield
        except NotACheckpoint:
            raise  # it would be refused again
        except PipelineError as error:
            again = [f"cli.py push {location} {self.target.repo}"]
            if in_store and self.settings.store != DEFAULT_STORE:
                again.append(f"--store {parse_store(self.settings.store)}")  # without its signature
            if self.target.branch != HubTarget(self.target.repo).branch:
                again.append(f"--revision {self.target.branch}")
            if self.target.private:
                again.append("--private")
            hint = f"{error.hint}; " if error.hint else ""
            error.hint = f"{hint}{location} stays as it is: `{' '.join(again)}` pushes it again"
            raise


def _may_be_weights(name: str) -> bool:
    """Whether a loader would take a file for weights or an adapter, and perhaps prefer it."""
    is_named = name in (*INDEXES, ADAPTER_CONFIG)
    return "/" not in name and (is_named or name.endswith((SAFETENSORS, *PICKLES)))
