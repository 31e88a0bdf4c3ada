"""The architecture, checked on the source: who may import whom, and what stays out of a package."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# From the top down: a package imports only from those below it, and from itself.
LAYERS = [
    ["cli"],
    ["commands"],
    ["rendering"],
    ["batch"],
    ["operations"],
    ["quality", "analysis"],
    ["deltas"],
    ["checkpoints"],
    ["engine"],
    ["codecs"],
    ["tensors"],
    ["storage"],
    ["settings", "progress"],
    ["units"],
    ["errors", "version"],
    ["redaction"],
]
TOPMOST = ("cli", "commands")  # which also use the public functions of `pipeline` itself
DEPTH = {name: depth for depth, names in enumerate(LAYERS) for name in names}

# Of I/O, the tensors package does one thing: it keeps its kernels' machine code in the user's cache.
COMPILES = "tensors/native.py"
# What numba compiles: where each source's contracts are written.
KERNELS = {
    "tensors/kernel_source.py": "tensors/kernels.py",
    "codecs/kernel_source.py": "codecs/kernels.py",
    "codecs/table_source.py": "codecs/kernels.py",
    "codecs/vector_source.py": "codecs/kernels.py",
}

# Slow to import: only where they are needed, inside functions.
HEAVY = {
    "torch": {"tensors/torch_arithmetic.py"},
    "transformers": set(),
    "azure": {"storage/azure/store.py"},
    "huggingface_hub": {"storage/hub/models.py"},
    "numba": set(KERNELS),
}
INPUT_AND_OUTPUT = {
    "io",
    "os",
    "pathlib",
    "requests",
    "shutil",
    "socket",
    "subprocess",
    "tempfile",
    "urllib",
}

Import = tuple[str, bool]  # the module's full name; whether it runs when the importer is imported


def sources() -> dict[str, Path]:
    """Every module of the pipeline, and the command line, by its path below the package."""
    found = {p.relative_to(ROOT / "pipeline").as_posix(): p for p in (ROOT / "pipeline").rglob("*.py")}
    return {**found, "cli.py": ROOT / "cli.py"}


SOURCES = sources()
MODULES = [name for name in SOURCES if name != "__init__.py"]


def layer_of(path: str) -> str:
    """tensors/dtypes.py -> tensors, errors.py -> errors."""
    return path.partition("/")[0].removesuffix(".py")


def imports(path: str) -> Iterator[Import]:
    """What a module imports, but for what only type checkers see."""
    yield from _imports(ast.parse(SOURCES[path].read_text()), at_once=True)


def _imports(node: ast.AST, *, at_once: bool) -> Iterator[Import]:
    match node:
        case ast.If(test=ast.Name(id="TYPE_CHECKING")):
            return
        case ast.Import():
            yield from ((alias.name, at_once) for alias in node.names)
        case ast.ImportFrom():
            assert node.level == 0, "relative imports hide which layer is meant"
            yield from ((f"{node.module}.{alias.name}", at_once) for alias in node.names)
        case _:
            inside = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            for child in ast.iter_child_nodes(node):
                yield from _imports(child, at_once=at_once and not inside)


def test_every_module_has_its_place_in_the_order_of_layers():
    assert {layer_of(path) for path in MODULES} <= set(DEPTH)


@pytest.mark.parametrize("path", MODULES)
def test_imports_go_only_downwards(path):
    own = layer_of(path)
    for module, _ in imports(path):
        if module.startswith("pipeline."):
            other = module.split(".")[1]
            assert other == own or DEPTH[own] < DEPTH.get(other, -1) or own in TOPMOST, module


@pytest.mark.parametrize("path", [path for path in MODULES if layer_of(path) in ("tensors", "codecs")])
def test_tensors_and_codecs_do_no_input_and_output(path):
    used = {module.partition(".")[0] for module, _ in imports(path)} & INPUT_AND_OUTPUT
    names = {
        node.id for node in ast.walk(ast.parse(SOURCES[path].read_text())) if isinstance(node, ast.Name)
    }
    if path == COMPILES:
        assert used == {"os", "pathlib"}
    else:
        assert not used | names & {"open", "print", "input"}


@pytest.mark.parametrize("path", [path for path in MODULES if layer_of(path) == "storage"])
def test_stores_know_nothing_of_models(path):
    """Bytes by range in, bytes by block out: not even arrays."""
    known = {module.partition(".")[0] for module, _ in imports(path)}
    assert not known & {"numpy", "safetensors", "torch", "transformers", "tokenizers"}
    words = {
        node.id.lower()
        for node in ast.walk(ast.parse(SOURCES[path].read_text()))
        if isinstance(node, ast.Name)
    }
    assert not {word for word in words if "tensor" in word or "checkpoint" in word or "dtype" in word}


@pytest.mark.parametrize("path", MODULES)
def test_heavy_packages_are_imported_only_where_they_are_needed(path):
    for module, at_once in imports(path):
        package = module.partition(".")[0]
        assert not at_once or path in HEAVY.get(package, {path}), module


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


def documented(path: str) -> dict[str, bool]:
    """The public functions and classes of a module, and whether each has a docstring."""
    definitions = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
    found = [node for node in ast.parse(SOURCES[path].read_text()).body if isinstance(node, definitions)]
    return {node.name: bool(ast.get_docstring(node)) for node in found if not node.name.startswith("_")}


@pytest.mark.parametrize("path", SOURCES)
def test_everything_public_says_what_it_is(path):
    assert ast.get_docstring(ast.parse(SOURCES[path].read_text()))
    silent = {name for name, says in documented(path).items() if not says}
    if path in KERNELS:  # their contracts are those of the functions that call them
        silent -= {name for name, says in documented(KERNELS[path]).items() if says}
    assert not silent


def test_no_module_runs_or_unpickles_what_it_reads():
    for path, source in SOURCES.items():
        tree = ast.parse(source.read_text())
        calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
        names = {node.func.id for node in calls if isinstance(node.func, ast.Name)}
        assert not names & {"eval", "exec"}, path
        assert not {module.partition(".")[0] for module, _ in imports(path)} & {
            "pickle",
            "marshal",
            "shelve",
        }, path
        for call in calls:
            given = {keyword.arg: keyword.value for keyword in call.keywords}
            if isinstance(call.func, ast.Attribute) and ast.unparse(call.func) == "torch.load":
                assert ast.unparse(given["weights_only"]) == "True", path
            assert (
                "trust_remote_code" not in given or ast.unparse(given["trust_remote_code"]) == "False"
            ), path
