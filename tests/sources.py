"""The product's source as data, for the tests of the house: its modules, what they import and define."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

ROOT = Path(__file__).parents[1]

# What numba compiles: where each source's contracts are written.
KERNELS = {
    "tensors/kernel_source.py": "tensors/kernels.py",
    "tensors/bf16_source.py": "tensors/kernels.py",
    "tensors/vector_source.py": "tensors/kernels.py",
    "tensors/fusion_source.py": "tensors/fusion.py",
    "codecs/kernel_source.py": "codecs/kernels.py",
    "codecs/table_source.py": "codecs/kernels.py",
    "codecs/vector_source.py": "codecs/kernels.py",
}

Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Import:
    """module: its full name. at_once: whether it comes with its importer. typing: for checkers only."""

    module: str
    at_once: bool
    typing: bool


@dataclass(frozen=True)
class Definition:
    """A function, a method or a class. name: with its class. bases: of a class, or of a method's."""

    name: str
    node: Function | ast.ClassDef
    bases: tuple[str, ...]

    @property
    def is_public(self) -> bool:
        return not any(part.startswith("_") for part in self.name.split("."))

    @property
    def docstring(self) -> str:
        return ast.get_docstring(self.node) or ""


@dataclass(frozen=True)
class Module:
    """path: below the package, as in tensors/dtypes.py; or cli.py."""

    path: str
    text: str

    @property
    def layer(self) -> str:
        """tensors/dtypes.py -> tensors, errors.py -> errors."""
        return self.path.partition("/")[0].removesuffix(".py")

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.text)

    @cached_property
    def imports(self) -> list[Import]:
        return list(_imports(self.tree, at_once=True, typing=False))

    @cached_property
    def packages(self) -> set[str]:
        """The topmost packages of all that is imported to run."""
        return {each.module.partition(".")[0] for each in self.imports if not each.typing}

    @cached_property
    def definitions(self) -> list[Definition]:
        """Those of the module and of its classes, not those inside functions."""
        return list(_definitions(self.tree.body))

    @cached_property
    def functions(self) -> list[Function]:
        """Every function, wherever it is defined."""
        return [node for node in ast.walk(self.tree) if isinstance(node, Function)]

    def names(self) -> set[str]:
        return {node.id for node in ast.walk(self.tree) if isinstance(node, ast.Name)}


def _imports(node: ast.AST, *, at_once: bool, typing: bool) -> Iterator[Import]:
    match node:
        case ast.Import():
            yield from (Import(alias.name, at_once, typing) for alias in node.names)
        case ast.ImportFrom():
            assert node.level == 0, "relative imports hide which layer is meant"
            for alias in node.names:
                yield Import(f"{node.module}.{alias.name}", at_once, typing)
        case _:
            inside = isinstance(node, Function | ast.Lambda)
            for_checkers = isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
            for child in ast.iter_child_nodes(node):
                yield from _imports(child, at_once=at_once and not inside, typing=typing or for_checkers)


def _definitions(
    body: list[ast.stmt], prefix: str = "", bases: tuple[str, ...] = ()
) -> Iterator[Definition]:
    for node in body:
        if isinstance(node, ast.ClassDef):
            own = tuple(map(ast.unparse, node.bases))
            yield Definition(prefix + node.name, node, own)
            yield from _definitions(node.body, f"{prefix}{node.name}.", own)
        elif isinstance(node, Function):
            yield Definition(prefix + node.name, node, bases)


def _read() -> dict[str, Module]:
    package = ROOT / "pipeline"
    paths = {path.relative_to(package).as_posix(): path for path in sorted(package.rglob("*.py"))}
    paths["cli.py"] = ROOT / "cli.py"
    return {name: Module(name, path.read_text()) for name, path in paths.items()}


SOURCES = _read()
