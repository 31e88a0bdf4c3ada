"""Everything that is wrong in a config is said at once, each with its place."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from batch.configs import DELTA, MODEL, problems, read, steps

from pipeline.errors import UsageError

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (
            {"base": "no such folder"},
            "base: 'no such folder' is neither a folder that exists nor a Hub id",
        ),
        ({"base": ""}, "base: '' is not a location"),
        ({"base": "x" * 5000}, f"base: '{'x' * 80}' is not a location"),
        ({"post": "s3://bucket/x"}, "post: s3:// is not a kind of location"),
        ({"post": 3}, "post: should be a valid string"),
        ({"output": "a//b"}, "output: 'a//b' is not a name inside a store"),
        ({"output": "hf://org/x"}, "output: deltas are not read from the Hub"),
        ({"output": "@other"}, "output: is a reference, but an output is a location of its own"),
        ({"dtype": "int8"}, "dtype: should be 'auto', 'bfloat16', 'float16', 'float32' or 'float64'"),
        ({"codec": "zip"}, "codec: should be 'rans' or 'none'"),
        ({"colour": "red"}, "colour: is not a key that belongs here"),
        ({"a b": 1}, '["a b"]: is not a key that belongs here'),
        ({"id": "a=b"}, "id: should be letters, digits"),
        ({"run": "merge"}, "run: should be one of 'compute', 'apply', 'combine', 'verify'"),
        ({"run": None}, "run: should be one of 'compute', 'apply', 'combine', 'verify'"),
    ],
)
def test_a_wrong_field_of_a_compute_step_is_named(change, problem):
    (found,) = problems({"steps": [{**DELTA, **change}]})
    assert found.startswith(f"steps[0]{'' if problem.startswith('[') else '.'}{problem}")


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"deltas": []}, "deltas: should not be empty"),
        ({"deltas": "d"}, "deltas: should be a list"),
        ({"deltas": [5]}, 'deltas[0]: should be "DELTA", "DELTA=SCALE" or an object'),
        ({"deltas": [{"scale": 1}]}, "deltas[0].delta: is missing"),
        ({"deltas": ["d=much"]}, "deltas[0]: 'much' is not a scale: write DELTA=0.5"),
        ({"deltas": ["d=inf"]}, "deltas[0]: should be a finite number"),
        ({"deltas": ["c", {"delta": "d", "scale": "1"}]}, "deltas[1].scale: should be a valid number"),
        ({"scale": float("nan")}, "scale: should be a finite number"),
        ({"scale": True}, "scale: should be a valid number"),
        ({"output": "hf://org/x"}, "output: models are not written to the Hub"),
        ({"shard_size": "huge"}, "shard_size: 'huge' is not a size"),
        ({"shard_size": True}, "shard_size: should be a size"),
    ],
)
def test_a_wrong_field_of_an_apply_step_is_named(change, problem):
    (found,) = problems({"steps": [{**MODEL, "deltas": ["d"], **change}]})
    assert found.startswith(f"steps[0].{problem}")


@pytest.mark.parametrize(
    ("defaults", "problem"),
    [
        ({"memory": "lots"}, "memory: 'lots' is not a size"),
        ({"memory": 0}, "memory: 0 is not a size"),
        ({"workers": 0}, "workers: should be greater than or equal to 1"),
        ({"device": "tpu"}, "device: should be 'auto', 'cpu' or 'cuda'"),
        ({"overwrite": "yes"}, "overwrite: should be a valid boolean"),
        ({"store": "hf://org/x"}, "store: models are not written to the Hub"),
    ],
)
def test_a_wrong_default_is_named(defaults, problem):
    (found,) = problems({"steps": [DELTA], "defaults": defaults})
    assert found.startswith(f"defaults.{problem}")


def test_there_must_be_a_step():
    assert problems({"steps": []}) == ["steps: should not be empty"]
    assert problems({}) == ["steps: should not be empty"]


def test_a_step_says_what_it_does():
    without = {key: value for key, value in DELTA.items() if key != "run"}
    assert problems({"steps": [without]}) == [
        'steps[0].run: is missing: it says what the step does, as "compute"'
    ]


def test_problems_of_the_flat_form_have_its_own_paths():
    pair = {"base": "org/v1", "post": "@x", "output": "d"}
    assert problems({"model_pairs": [pair, {"base": "org/v1", "output": "d"}]}) == [
        "model_pairs[0].post: no step is called 'x'",
        "model_pairs[1].output: is also model_pairs[0]'s",
        "model_pairs[1].post: is missing",
    ]


def test_two_steps_do_not_share_an_id():
    assert steps({}, {"id": "delta", "deltas": ["d"]}) == ["steps[1].id: is also steps[0]'s"]


@pytest.mark.parametrize(
    ("first", "second"), [("d.safetensors", "d.safetensors"), ("./s/d", "./s/../s/d")]
)
def test_two_steps_do_not_write_to_one_place(first, second):
    pair = [{**DELTA, "output": first}, {**DELTA, "id": "other", "output": second}]
    assert problems({"steps": pair}) == ["steps[1].output: is also steps[0]'s"]


def test_a_reference_to_no_step_is_found_and_the_nearest_one_named():
    assert steps({}, {"deltas": ["@dleta=0.5"], "base": "@nothing-like-it"}) == [
        "steps[1].base: no step is called 'nothing-like-it'",
        "steps[1].deltas[0]: no step is called 'dleta': did you mean \"@delta\"?",
    ]


def test_a_delta_is_no_model_and_a_model_no_delta():
    assert steps({}, {"base": "@delta"}) == [
        "steps[1].base: 'delta' makes a delta, but a model is wanted here"
    ]
    other = {**MODEL, "id": "other", "output": "./other", "deltas": [{"delta": "@model"}]}
    assert problems({"steps": [DELTA, MODEL, other]}) == [
        "steps[2].deltas[0]: 'model' makes a model, but a delta is wanted here"
    ]


def test_a_step_does_not_need_itself():
    assert steps({}, {"base": "@model"}) == ["steps[1].base: is this step itself"]


def test_steps_do_not_need_each_other():
    assert steps({"base": "@model"}) == ["steps[0]: needs itself: delta → model → delta"]


def test_what_another_step_writes_is_read_by_reference():
    """Else nothing would make the one wait for the other."""
    assert steps({}, {"deltas": ["d.safetensors=0.5"]}) == [
        'steps[1].deltas[0]: is what steps[0] writes: say so by "@delta"'
    ]
    other = {**MODEL, "id": "other", "base": "out", "output": "./other"}
    assert problems({"steps": [DELTA, MODEL, other]}) == [
        'steps[2].base: is what steps[1] writes: say so by "@model"'
    ]


def test_a_step_does_not_overwrite_what_it_reads():
    Path("out").mkdir()
    assert steps({}, {"base": "out"}) == ["steps[1].base: is what this step writes itself"]


EIGHT = """{
  "defaults": {"memory": "lots", "memory": "plenty"},
  "steps": [
    {"id": "a", "run": "compute", "base": "no folder", "post": "org/post", "output": "a"},
    {"id": "a", "run": "compute", "base": "org/v1", "post": "org/post", "output": "a"},
    {"id": "b", "run": "apply", "base": "@a", "deltas": ["@c", "d=nan"], "output": "./b"}
  ]
}"""
EIGHT_PATHS = [
    "defaults.memory: is given more than once",
    "defaults.memory: 'plenty' is not a size",
    "steps[0].base: 'no folder' is neither",
    "steps[1].id: is also",
    "steps[1].output: is also",
    "steps[2].base: 'a' makes a delta",
    "steps[2].deltas[0]: no step",
    "steps[2].deltas[1]: should be a finite number",
]

# The same of names, matrices and chains, one of which can't be written out as steps.
EIGHT_MORE = """{
  "models": {"v1": "org/base-v1", "v2": "no folder", "chat": "@v1"},
  "deltas": {"chat": "deltas/chat.safetensors"},
  "steps": [
    {"id": "again", "run": "compute", "base": "@v3", "post": "@line.v2", "output": "again"},
    {"id": "moved", "run": "apply", "base": "@v1", "deltas": ["@all.code.v1"], "output": "./moved"}
  ],
  "matrix": [{"id": "all", "deltas": ["@chat", "@code"], "bases": ["@v1"], "output": "./{delta}"}],
  "chain": [{
    "id": "line", "delta": "{version}", "output": "./{version}",
    "versions": [{"name": "v1", "base": "@v1", "post": "org/post-v1"},
                 {"name": "v2", "base": "${LOST}"}, {"name": "v3", "base": "@v4"}]
  }]
}"""
EIGHT_MORE_PATHS = [
    "chain[0].versions[1].base: the variable LOST is not set",
    "chain[0].versions[2].base: no step is called 'v4'",
    "deltas.chat: is also the name of a model",
    "matrix[0].deltas[1]: no step is called 'code'",
    "models.chat: is a reference, but should be a location",
    "models.v2: 'no folder' is neither",
    "steps[0].base: no step is called 'v3'",
    "steps[1].deltas[0]: 'all.code.v1' makes a model, but a delta is wanted here",
]
MISTAKES = pytest.mark.parametrize(
    ("text", "paths"), [(EIGHT, EIGHT_PATHS), (EIGHT_MORE, EIGHT_MORE_PATHS)], ids=["steps", "forms"]
)


@MISTAKES
def test_eight_mistakes_are_all_listed(text, paths):
    found = problems(text)
    assert len(found) == len(paths)
    assert all(text.startswith(start) for text, start in zip(found, paths, strict=True))


@MISTAKES
def test_mistakes_are_found_in_under_a_second_without_heavy_imports(text, paths):
    Path("batch.json").write_text(text)
    code = (
        "import sys, time, cli\n"
        "sys.argv = ['cli.py', 'batch', 'batch.json']\n"
        "try: cli.main()\n"
        "finally:\n"
        "    heavy = {'torch', 'numpy', 'transformers', 'azure', 'numba', 'huggingface_hub'}\n"
        "    print(sorted(heavy & set(sys.modules)), time.process_time() < 1)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout.strip()) == (2, "[] True")
    assert f"{len(paths)} problems: " in done.stderr
    assert all(start in done.stderr for start in paths)


def test_options_in_place_of_the_defaults_are_checked():
    with pytest.raises(UsageError, match=r"memory: 'lots' is not a size.*; workers: should be greater"):
        read({"steps": [DELTA]}).defaults.override(memory="lots", workers=0)
