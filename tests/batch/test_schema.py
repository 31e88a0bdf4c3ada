"""The published schemas are what the code says, and what they describe fits them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from conftest import ROOT
from jsonschema import Draft202012Validator
from models import cast, near, random_state, write_model

from pipeline.batch.config import read_config
from pipeline.batch.runner import run_batch
from pipeline.batch.schema import config_schema, report_schema, write_schemas
from pipeline.errors import ConfigError

CONFIGS = [path for path in (ROOT / "configs").glob("*.json") if ".schema." not in path.name]
PAGES = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]

STEP = {"id": "d", "run": "compute", "base": "org/v1", "post": "org/post", "output": "d.safetensors"}
APPLY = {"id": "m", "run": "apply", "base": "org/v2", "deltas": ["@d"], "output": "./m"}


def problems(schema, content):
    return [error.message for error in Draft202012Validator(schema).iter_errors(content)]


def configs_on_pages():
    """Every whole config that a page shows."""
    for page in PAGES:
        for number, block in enumerate(re.findall(r"```json\n(.*?)```", page.read_text(), re.S)):
            if re.search(r'"(steps|chain|matrix|model_pairs)"', block):
                yield pytest.param(block, id=f"{page.name}-{number}")


@pytest.mark.parametrize("name", ["batch", "report"])
def test_the_files_are_what_the_code_says(name, tmp_path):
    """If not: python -m pipeline.batch.schema."""
    write_schemas(tmp_path)
    assert (tmp_path / f"{name}.schema.json").read_text() == (
        ROOT / "configs" / f"{name}.schema.json"
    ).read_text()


@pytest.mark.parametrize("schema", [config_schema(), report_schema()], ids=["batch", "report"])
def test_schemas_are_schemas_and_explain_every_field(schema):
    Draft202012Validator.check_schema(schema)
    for kind in (schema, *schema["$defs"].values()):
        assert kind["description"]
        assert not [name for name, field in kind["properties"].items() if "description" not in field]


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_configs_fit_the_schema(path):
    assert not problems(config_schema(), json.loads(path.read_text()))


@pytest.mark.parametrize("block", list(configs_on_pages()))
def test_configs_that_pages_show_fit_the_schema_and_are_read(block, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in set(re.findall(r"\$\{(\w+)\}", block)):
        monkeypatch.setenv(name, "releases")
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    Path("page.json").write_text(block)
    assert not problems(config_schema(), json.loads(block))
    assert read_config("page.json").graph.order()


@pytest.mark.parametrize(
    "content",
    [
        {"steps": [{**STEP, "colour": "red"}]},
        {"steps": [{key: value for key, value in STEP.items() if key != "run"}]},
        {"steps": [{**STEP, "codec": "zip"}]},
        {"steps": [STEP, {**APPLY, "deltas": [{"delta": "d", "base": "org/v1"}]}]},
        {"steps": [STEP], "defaults": {"workers": 0}},
        {"chain": [{"id": "c", "versions": [{"name": "v1"}], "delta": "d", "output": "./o"}]},
        {"step": [STEP]},
    ],
    ids=str,
)
def test_what_the_schema_refuses_the_program_refuses_too(content, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("wrong.json").write_text(json.dumps(content))
    assert problems(config_schema(), content)
    with pytest.raises(ConfigError):
        read_config("wrong.json")


def test_every_report_fits_the_schema(tmp_path, monkeypatch):
    """Of a plan, of a run in which steps fail, are skipped and done, and of one that finds them done."""
    monkeypatch.chdir(tmp_path)
    state = random_state(0)
    for name, seed in (("v1", 1), ("post", 2), ("v2", 3)):
        write_model(tmp_path / name, cast(near(state, seed)))
    steps = [
        {**STEP, "base": "./v1", "post": "./post"},
        {**APPLY, "base": "./v2"},
        {**APPLY, "id": "bad", "base": "./nothing", "output": "./bad"},
        {**APPLY, "id": "after", "base": "@bad", "output": "./after"},
        {"id": "v", "run": "verify", "target": "@d"},
    ]
    Path("all.json").write_text(json.dumps({"steps": steps}))
    seen = set()
    for options in ({"dry_run": True}, {}, {}):
        report = run_batch("all.json", **options)
        seen |= {step.status for step in report.steps}
        assert not problems(report_schema(), json.loads(report.to_json()))
        if not report.dry_run:
            written = json.loads(Path("reports/all.json").read_text())
            assert not problems(report_schema(), written)
    assert seen == {"planned", "failed", "skipped", "done", "fresh"}
