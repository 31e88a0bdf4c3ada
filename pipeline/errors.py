"""Every error that the pipeline raises on purpose, in one hierarchy.

An error says what happened, where, and what to try next. The command line prints it as one line and
exits with the class's `exit_code`; anything that is not a `PipelineError` is a bug of ours (exit 1).

| exit code | meaning |
|---|---|
| 0 | done |
| 1 | a bug of ours |
| 2 | usage or configuration |
| 3 | the work could not be done: bad input, existing output, no space, a failed batch step |
| 4 | a gate refused a model; of a batch, if every step that failed did so for that reason |
| 5 | credentials or network; of a batch, if every step that failed did so for that reason |
| 6 | a file is damaged: its structure or its content is not what its format or its digests say |
| 7 | another checkpoint than the one that a delta was made of |
| 8 | a signature was wanted, and there is none |
| 9 | a signature that does not hold: another key, or another content |
| 130 | interrupted |
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.redaction import redact

_MAX_CHARACTERS = 10_000  # of a message: files are quoted in it, and may say anything


def printable(text: str) -> str:
    """`text` with all that is not for reading escaped: what files say must not steer a terminal."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in "\n\t" else repr(c)[1:-1] for c in text)


def _again(kind: type[PipelineError], args: Sequence[Any], state: Mapping[str, Any]) -> PipelineError:
    """An error as it was in another process."""
    error = kind.__new__(kind, *args)
    error.__dict__.update(state)
    return error


class PipelineError(Exception):
    """Base of all deliberate errors.

    what: one sentence on what happened. where: the file, tensor, option or URL concerned (never a
    secret). hint: the next thing to try.
    """

    exit_code = 3

    def __init__(self, what: str, *, where: str | None = None, hint: str | None = None) -> None:
        self.what = what
        self.where = where
        self.hint = hint
        super().__init__(what)

    def __reduce__(self) -> tuple[Any, ...]:
        """How it travels to another process: as itself, whatever its class's arguments are."""
        return _again, (type(self), self.args, self.__dict__)

    def __str__(self) -> str:
        text = redact(f"{self.where}: {self.what}" if self.where else self.what)
        if len(text) > _MAX_CHARACTERS:
            text = text[:_MAX_CHARACTERS] + "…"
        return printable(f"{text} ({redact(self.hint)})" if self.hint else text)


class UsageError(PipelineError):
    """An option, a location or a setting that cannot mean anything."""

    exit_code = 2


class ConfigError(UsageError):
    """A batch config with problems: all of them, each with its JSON path."""

    def __init__(self, problems: Sequence[str], *, where: str) -> None:
        self.problems = tuple(problems)
        count = len(self.problems)
        what = f"{count} problem{'s' if count != 1 else ''}: " + "; ".join(self.problems)
        super().__init__(what, where=where)


class NotFound(PipelineError):
    """A file, blob, folder, repository or revision that is not there."""


class OutputExists(PipelineError):
    """Something already stands under the output's name, and overwriting was not asked for."""


class StorageError(PipelineError):
    """A store that cannot do what is asked of it: no space left, a read that comes up short."""


class NotACheckpoint(PipelineError):
    """A location that holds no model weights in a form that we read."""


class IsAnAdapter(NotACheckpoint):
    """A folder that holds a LoRA adapter: a model only together with its base."""


class CorruptFile(PipelineError):
    """A file whose structure or content is not what its format or its digests say."""

    exit_code = 6


class OtherCheckpoint(PipelineError):
    """A checkpoint that is not the one that a delta was made of."""

    exit_code = 7


class Unsigned(PipelineError):
    """Something that should have been signed, and is not."""

    exit_code = 8


class BadSignature(PipelineError):
    """A signature that does not hold: made by another key, or for another content."""

    exit_code = 9


class QuantisedCheckpoint(PipelineError):
    """Weights whose numbers are codes, not values: subtracting them would mean nothing."""


class Mismatch(PipelineError):
    """Checkpoints or deltas that do not fit together: every difference, the first ten in the text.

    noun: what the problems are about, in the singular.
    """

    SHOWN = 10

    def __init__(self, problems: Sequence[str], *, where: str, hint: str, noun: str = "tensor") -> None:
        self.problems = tuple(problems)
        count = len(self.problems)
        shown = "; ".join(self.problems[: self.SHOWN])
        more = f"; and {count - self.SHOWN} more" if count > self.SHOWN else ""
        what = f"{count} {noun}{'s do' if count != 1 else ' does'} not fit: {shown}{more}"
        super().__init__(what, where=where, hint=hint)


class UnrelatedBase(PipelineError):
    """A base that does not descend from the one that a delta was made on: every reason."""

    def __init__(self, problems: Sequence[str], *, where: str) -> None:
        self.problems = tuple(problems)
        super().__init__(
            f"this base is unrelated: {'; '.join(self.problems)}",
            where=where,
            hint="use a later version of the delta's own base, see `cli.py inspect`; "
            "or add it all the same, with --allow-unrelated",
        )


class StepFailed(PipelineError):
    """A batch in which at least one step failed."""


class Refused(PipelineError):
    """A model that does not pass its gate, or that is to be published and has not passed it."""

    exit_code = 4


class AccessError(PipelineError):
    """Credentials that are missing, refused or expired."""

    exit_code = 5


class Unreachable(AccessError):
    """A network or a service that does not answer as it should; trying again may help.

    retry_after_s: how long the service asked to be left alone, in seconds. status: what it answered by
    HTTP, None if nothing came.
    """

    def __init__(
        self,
        what: str,
        *,
        where: str | None = None,
        hint: str | None = None,
        retry_after_s: float | None = None,
        status: int | None = None,
    ) -> None:
        super().__init__(what, where=where, hint=hint)
        self.retry_after_s = retry_after_s
        self.status = status

    @property
    def is_busy(self) -> bool:
        """Whether the service said that it has too much to do."""
        return self.status in (429, 503)
