"""Short forms: what a matrix, a chain, names and deltas on the way stand for."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline.batch.config import Config, read_config
from pipeline.batch.steps import Apply, Compute
from pipeline.batch.terms import Difference, Term
from pipeline.errors import ConfigError

MODELS = {"v1": "org/base-v1", "v2": "org/base-v2", "v3": "org/base-v3"}


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def read(**content) -> Config:
    Path("batch.json").write_text(json.dumps(content))
    return read_config("batch.json")


def problems(**content) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        read(**content)
    return list(caught.value.problems)


def chain(*versions, **more):
    return {
        "id": "chat",
        "versions": [
            {"name": name, "base": f"@{name}", **({"post": post} if post else {})}
            for name, post in versions
        ],
        "delta": "deltas/chat-{version}.safetensors",
        "output": "./out/chat-{version}",
        **more,
    }


# Names


def test_a_name_is_the_location_it_stands_for():
    steps = [
        {"id": "d", "run": "compute", "base": "@v1", "post": "org/post", "output": "d"},
        {"id": "m", "run": "apply", "base": "@v2", "deltas": ["@d", "@chat=0.5"], "output": "./m"},
    ]
    config = read(models=MODELS, deltas={"chat": "deltas/chat.safetensors"}, steps=steps)
    assert (config.by_id["d"].base, config.by_id["m"].base) == ("org/base-v1", "org/base-v2")
    assert config.by_id["m"].deltas[1] == Term(delta="deltas/chat.safetensors", scale=0.5)
    assert config.graph.needs == {"d": (), "m": ("d",)}


def test_names_of_the_wrong_kind_or_twice_are_problems():
    steps = [
        {"id": "v3", "run": "compute", "base": "@chat", "post": "@v4", "output": "d"},
        {"id": "m", "run": "apply", "base": "@v2", "deltas": ["@v1"], "output": "./m"},
    ]
    assert problems(models={**MODELS, "chat": "org/x"}, deltas={"chat": "c"}, steps=steps) == [
        "deltas.chat: is also the name of a model",
        "steps[0].base: 'chat' is a delta, but a model is wanted here",
        "steps[0].id: is also the name of a model",
        "steps[0].post: no step is called 'v4'",
        "steps[1].deltas[0]: 'v1' is a model, but a delta is wanted here",
    ]


# Matrix


def test_a_matrix_is_every_delta_onto_every_base():
    matrix = {
        "id": "all",
        "deltas": ["@chat", "deltas/code.safetensors=0.5"],
        "bases": ["@v2", "org/other@main"],
        "output": "./out/{delta}-{base}",
    }
    steps = read(models=MODELS, deltas={"chat": "c.safetensors"}, matrix=[matrix]).by_id
    assert {name: (step.base, step.deltas[0].delta, step.output) for name, step in steps.items()} == {
        "all.chat.v2": ("org/base-v2", "c.safetensors", "./out/chat-v2"),
        "all.chat.other": ("org/other@main", "c.safetensors", "./out/chat-other"),
        "all.code.v2": ("org/base-v2", "deltas/code.safetensors", "./out/code-v2"),
        "all.code.other": ("org/other@main", "deltas/code.safetensors", "./out/code-other"),
    }
    assert steps["all.code.v2"].deltas[0].scale == 0.5


def test_outputs_of_a_matrix_must_differ():
    matrix = {"id": "all", "deltas": ["@chat"], "bases": ["@v2", "@v3"], "output": "./out"}
    assert problems(models=MODELS, deltas={"chat": "c"}, matrix=[matrix]) == [
        "matrix[0]: the output should say {base}, for there are 2"
    ]


# Chain


def test_a_chain_moves_the_first_delta_onto_each_later_base():
    config = read(models=MODELS, chain=[chain(("v1", "org/post-v1"), ("v2", None), ("v3", None))])
    assert config.by_id == {
        "chat.delta.v1": Compute(
            id="chat.delta.v1", base="org/base-v1", post="org/post-v1",
            output="deltas/chat-v1.safetensors",
        ),
        **{
            f"chat.{name}": Apply(
                id=f"chat.{name}", base=f"org/base-{name}", output=f"./out/chat-{name}",
                deltas=(Term(delta="@chat.delta.v1"),),
            )
            for name in ("v2", "v3")
        },
    }  # fmt: skip


def test_a_chain_that_rebases_goes_on_from_the_newest_post():
    versions = (("v1", "org/post-v1"), ("v2", "org/post-v2"), ("v3", None))
    config = read(models=MODELS, chain=[chain(*versions, rebase=True)])
    assert list(config.by_id) == ["chat.delta.v1", "chat.delta.v2", "chat.v3"]
    assert config.by_id["chat.v3"].deltas == (Term(delta="@chat.delta.v2"),)


@pytest.mark.parametrize(
    ("versions", "more", "problem"),
    [
        ((("v1", None), ("v2", None)), {}, "the first version needs a post"),
        ((("v1", "p"), ("v2", "q")), {}, 'v2 has a post of its own: say "rebase": true'),
        ((("v1", "p"), ("v1", None)), {}, "two versions have one name"),
        ((("v1", "p"), ("v2", None), ("v3", None)), {"output": "./o"}, "should say {version}"),
        ((("v1", "p"), ("v2", None)), {"output": "./{x}"}, "has braces that are none of"),
    ],
)  # fmt: skip
def test_a_chain_that_makes_no_sense_says_why(versions, more, problem):
    (found,) = problems(models=MODELS, chain=[chain(*versions, **more)])
    assert found.startswith("chain[0]") and problem in found


# Deltas on the way


def test_a_delta_without_an_output_is_taken_on_the_way():
    steps = [
        {"id": "d", "run": "compute", "base": "@v1", "post": "org/post"},
        {"id": "m", "run": "apply", "base": "@v2", "deltas": ["@d=0.5"], "output": "./m"},
    ]
    config = read(models=MODELS, steps=steps)
    assert list(config.by_id) == ["m"]
    assert config.by_id["m"].deltas == (Difference(base="org/base-v1", post="org/post", scale=0.5),)
    assert config.graph.needs == {"m": ()}


def test_a_delta_on_the_way_may_be_of_what_a_step_makes():
    steps = [
        {"id": "a", "run": "apply", "base": "@v1", "deltas": ["x"], "output": "./a"},
        {"id": "d", "run": "compute", "base": "@v1", "post": "@a"},
        {"id": "m", "run": "apply", "base": "@v2", "deltas": ["@d"], "output": "./m"},
    ]
    assert read(models=MODELS, steps=steps).graph.needs == {"a": (), "m": ("a",)}


def test_only_a_sum_takes_a_delta_on_the_way():
    steps = [
        {"id": "d", "run": "compute", "base": "@v1", "post": "org/post"},
        {"id": "e", "run": "compute", "base": "@v1", "post": "org/post"},
        {"id": "c", "run": "combine", "deltas": ["@d"], "output": "c"},
        {"id": "v", "run": "verify", "target": "@d"},
    ]
    assert problems(models=MODELS, steps=steps) == [
        "steps[1].output: is missing, and no step takes the delta on the way",
        "steps[2].deltas[0]: 'd' writes no delta: give it an output",
        "steps[3].target: 'd' writes no delta: give it an output",
    ]


def test_what_verify_is_to_know_as_a_delta_is_called_so():
    steps = [
        {"id": "d", "run": "compute", "base": "@v1", "post": "org/post", "output": "d"},
        {"id": "v", "run": "verify", "target": "@d"},
    ]
    assert problems(models=MODELS, steps=steps) == [
        "steps[1].target: 'd' writes a delta that no name ending tells of: call it *.safetensors"
    ]
