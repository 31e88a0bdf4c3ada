"""The architecture, checked on the source: who may import whom, and what stays out of a package.

docs/architecture.md draws these layers.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter

import pytest
from sources import KERNELS, ROOT, SOURCES, Module

# From the top down: a package imports only from those below it, and from itself.
LAYERS = [
    ["cli"],
    ["commands"],
    ["rendering"],
    ["batch"],
    ["operations"],
    ["analysis"],
    ["quality"],
    ["deltas"],
    ["checkpoints"],
    ["engine"],
    ["codecs"],
    ["tensors"],
    ["storage"],
    ["settings", "progress", "logs"],
    ["units", "cache"],
    ["errors", "version"],
    ["redaction"],
]
TOPMOST = ("cli", "commands")  # which also use the public functions of `pipeline` itself
DEPTH = {name: depth for depth, names in enumerate(LAYERS) for name in names}

# Of I/O, the tensors package does one thing: it keeps its kernels' machine code in the user's cache.
COMPILES = "tensors/native.py"

# Slow to import: only where they are needed, inside functions.
HEAVY = {
    "torch": {"tensors/torch_arithmetic.py"},
    "transformers": set(),
    "gguf": set(),
    "azure": set(),
    "huggingface_hub": set(),
    "numba": set(KERNELS),
    "jinja2": set(),
    "lark": {"quality/conditions.py"},
    "peft": set(),
    "matplotlib": {f"analysis/{name}.py" for name in ("drawing", "plots", "score_plots", "sweep_plots")},
}
INPUT_AND_OUTPUT = {
    "io", "os", "pathlib", "requests", "shutil", "socket", "subprocess", "tempfile", "urllib",
}  # fmt: skip

MODULES = [module for path, module in SOURCES.items() if path != "__init__.py"]


def each(*layers: str) -> pytest.MarkDecorator:
    """Once for every module, or every one of these layers."""
    wanted = [module for module in MODULES if not layers or module.layer in layers]
    return pytest.mark.parametrize("module", wanted, ids=lambda module: module.path)


def upward_imports(module: Module) -> Iterator[str]:
    """What a module imports from its own layer's neighbours or from above, for type checkers too."""
    for imported in module.imports:
        package, *rest = imported.module.split(".")
        if package in ("pipeline", "cli"):
            other = rest[0] if package == "pipeline" else package
            is_below = DEPTH[module.layer] < DEPTH[other] if other in DEPTH else module.layer in TOPMOST
            if other != module.layer and not is_below:
                yield imported.module


def test_every_module_has_its_place_in_the_order_of_layers():
    assert {module.layer for module in MODULES} == set(DEPTH)


@each()
def test_imports_go_only_downwards(module):
    assert not list(upward_imports(module))


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("storage/base.py", "import pipeline.tensors.dtypes"),
        ("storage/base.py", "from pipeline.checkpoints import files"),
        ("settings.py", "from pipeline.logs import logging_from"),  # a neighbour
        ("deltas/delta.py", "def late():\n    from pipeline.operations import compute"),
        ("codecs/rans.py", "if TYPE_CHECKING:\n    from pipeline.engine import plan"),
        ("operations/compute.py", "from pipeline import apply"),
        ("commands/options.py", "from cli import app"),
    ],
)
def test_one_import_upwards_is_found_wherever_it_hides(path, line):
    assert not list(upward_imports(Module(path, "from pipeline.redaction import redact\nimport ast")))
    assert len(list(upward_imports(Module(path, f"from pipeline.redaction import redact\n{line}")))) == 1


def test_no_modules_import_each_other_in_a_circle():
    names = {f"pipeline.{module.path[:-3].replace('/', '.')}": module for module in MODULES}
    found = {
        name: {
            other
            for each in module.imports
            for other in (each.module, each.module.rpartition(".")[0])
            if other in names
        }
        for name, module in names.items()
    }
    TopologicalSorter(found).prepare()  # raises CycleError, which names the circle


@each("tensors", "codecs")
def test_tensors_and_codecs_do_no_input_and_output(module):
    used = module.packages & INPUT_AND_OUTPUT
    if module.path == COMPILES:
        assert used == {"pathlib"}
    else:
        assert not used | module.names() & {"open", "print", "input"}
    assert not [each.module for each in module.imports if each.module.startswith("pipeline.storage")]


@each("storage")
def test_stores_know_nothing_of_models(module):
    """Bytes by range in, bytes by block out: not even arrays."""
    assert not module.packages & {"numpy", "safetensors", "torch", "transformers", "tokenizers"}
    words = {name.lower() for name in module.names()}
    assert not {word for word in words if "tensor" in word or "checkpoint" in word or "dtype" in word}


@each()
def test_heavy_packages_are_imported_only_where_they_are_needed(module):
    for imported in module.imports:
        package = imported.module.partition(".")[0]
        late = imported.typing or not imported.at_once
        assert late or module.path in HEAVY.get(package, {module.path}), imported.module


def test_importing_the_pipeline_costs_nothing_and_streaming_needs_no_torch():
    program = (
        "import sys, pipeline\n"
        "assert 'numpy' not in sys.modules\n"
        "import pipeline.operations.compute, pipeline.operations.apply, pipeline.storage.local.store\n"
        "heavy = {'torch', 'transformers', 'azure.core', 'huggingface_hub', 'numba'}\n"
        "print(*sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout.decode().strip()) == (0, ""), done.stderr.decode()


@each()
def test_no_module_runs_or_unpickles_what_it_reads(module):
    assert not module.packages & {"pickle", "marshal", "shelve"}
    for call in (node for node in ast.walk(module.tree) if isinstance(node, ast.Call)):
        called = ast.unparse(call.func)
        assert called not in ("eval", "exec")
        given = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
        assert called != "torch.load" or given["weights_only"] == "True"
        assert given.get("trust_remote_code", "False") == "False"
