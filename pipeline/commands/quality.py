"""Commands that say whether a model works: evaluate."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal, TypedDict, Unpack

from typer import Argument, Option

from pipeline.commands.command import command
from pipeline.commands.options import (
    Dequantizing,
    FromHub,
    KeepingDigests,
    Planned,
    Replacing,
    Working,
)
from pipeline.progress import bar
from pipeline.rendering import show_evaluation

if TYPE_CHECKING:
    from pipeline.quality.report import Evaluation


class Against(TypedDict):
    """The models that one is held against."""

    reference: Annotated[
        str | None,
        Option(None, help="What it should be like: the new base really post-trained."),
    ]
    base: Annotated[str | None, Option(None, help="The new base, without the delta.")]
    donor: Annotated[str | None, Option(None, help="The delta's own post.")]
    donor_base: Annotated[str | None, Option(None, help="The delta's own base.")]


class Measured(TypedDict):
    """What is measured, and how."""

    data: Annotated[
        list[str] | None,
        Option(
            None,
            metavar="FILE|NAME=FILE",
            help="Text (.txt, or .jsonl with text) or questions (.jsonl with prompt); may be given "
            "several times.",
        ),
    ]
    metrics: Annotated[
        list[str] | None,
        Option(None, help="Only these, several times or with commas. [default: all that can be]"),
    ]
    lm_eval: Annotated[
        list[str] | None,
        Option(
            None,
            metavar="TASKS",
            help="Tasks of lm-evaluation-harness, several times or with commas; needs "
            "requirements-lm-eval.txt.",
        ),
    ]
    lm_eval_tasks: Annotated[
        str | None, Option(None, metavar="DIR", help="Task files (YAML) of your own for it.")
    ]
    device: Annotated[
        Literal["auto", "cpu", "cuda"], Option("auto", help="auto is cuda where there is one.")
    ]
    dtype: Annotated[
        Literal["auto", "bfloat16", "float16", "float32"],
        Option("auto", help="Format of the arithmetic; auto is as stored."),
    ]
    batch_size: Annotated[int, Option(16, help="Rows at once, of short ones.", min=1)]
    seed: Annotated[int, Option(0, help="Of whatever a model's code draws at random.", min=0)]


class Kept(TypedDict):
    """Where results go."""

    output: Annotated[
        str | None, Option(None, metavar="REPORT", help="The report to write, a JSON file.")
    ]
    items: Annotated[
        bool, Option(True, help="Every answer and document beside the report, as JSON lines.")
    ]
    cache: Annotated[
        str | None,
        Option(
            None,
            metavar="DIR|off",
            help="Results that need not be measured again. [default: the user's cache]",
        ),
    ]


class Evaluating(
    Against, Measured, Kept, FromHub, KeepingDigests, Dequantizing, Working, Replacing, Planned
):
    """Options of evaluate."""


@command(show_evaluation)
def evaluate(
    model: Annotated[
        str, Argument(help="The model to judge, or a LoRA adapter of --base.", show_default=False)
    ],
    **options: Unpack[Evaluating],
) -> Evaluation:
    """Measure what a model can do, with standard errors.

    Text: bits per byte, perplexity, finite logits. Questions: right answers, answers that it ends. Held
    against a reference and a base: KL, flips, the gap recovered. docs/evaluation.md has all of it.
    """
    from pipeline import evaluate as run

    return run(model, **options, progress=bar)
