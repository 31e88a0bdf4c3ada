"""How every module is built: how long it is, what it says of itself, and that it says it once."""

from __future__ import annotations

import ast
import hashlib
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence

import pytest
from sources import KERNELS, SOURCES, Definition, Module

MODULE_LINES, FUNCTION_LINES, EQUAL_LINES = 350, 60, 10

# State of the process itself, and why it can be no other's. Everything else is handed from hand to hand.
PROCESS_STATE = {
    ("redaction.py", "_known"): "what is secret must be known wherever text is made, in libraries too",
    ("storage/azure/identity.py", "_made"): "one sign-in, and its tokens, for all stores of a process",
    ("tensors/native.py", "_kept_alive"): "machine code that is in use must not be freed",
}

every_module = pytest.mark.parametrize("module", SOURCES.values(), ids=SOURCES)


def module_of(text: str) -> Module:
    return Module("example.py", text)


# -- size ---------------------------------------------------------------------------------------------


def too_long(module: Module) -> list[str]:
    """The functions of a module that are too long, and the module itself."""
    found = [
        f"{node.name}: {length}"
        for node in module.functions
        if (length := (node.end_lineno or 0) - node.lineno + 1) > FUNCTION_LINES
    ]
    lines = len(module.text.splitlines())
    return found + [f"all: {lines}"] * (lines > MODULE_LINES)


@every_module
def test_modules_and_functions_are_short(module):
    assert not too_long(module)


def test_one_line_too_many_is_found():
    body = "def f():\n" + "    pass\n" * FUNCTION_LINES
    assert too_long(module_of(body)) == ["f: 61"]
    assert too_long(module_of("x = 1\n" * (MODULE_LINES + 1))) == ["all: 351"]


# -- once -----------------------------------------------------------------------------------------------


def lines_that_count(module: Module) -> list[tuple[int, str]]:
    """A module's lines without imports, docstrings, comments and indentation, each with its number."""
    left_out: set[int] = set()
    for node in ast.walk(module.tree):
        is_text = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        if is_text or isinstance(node, ast.Import | ast.ImportFrom):
            left_out |= set(range(node.lineno, (node.end_lineno or 0) + 1))
    lines = enumerate(module.text.splitlines(), 1)
    stripped = ((number, line.split("  #")[0].strip()) for number, line in lines)
    return [(n, line) for n, line in stripped if line and n not in left_out and not line.startswith("#")]


def repeated(modules: Sequence[Module]) -> list[str]:
    """Where blocks of equal lines begin that stand in more than one place."""
    places: defaultdict[bytes, list[str]] = defaultdict(list)
    for module in modules:
        lines = lines_that_count(module)
        for at in range(len(lines) - EQUAL_LINES + 1):
            block = "\n".join(line for _, line in lines[at : at + EQUAL_LINES])
            digest = hashlib.sha256(block.encode()).digest()
            places[digest].append(f"{module.path}:{lines[at][0]}")
    return [" = ".join(found) for found in places.values() if len(found) > 1]


def test_nothing_of_ten_lines_is_written_twice():
    assert not repeated(list(SOURCES.values()))


def test_ten_equal_lines_are_found_whatever_stands_around_them():
    ten = [f"x{number} = {number}" for number in range(EQUAL_LINES)]
    plain = "\n".join(ten)
    inside = "import os\n\ndef f():\n" + "\n\n".join(f"    {line}  # a comment" for line in ten)
    assert repeated([module_of(plain), module_of(inside)]) == ["example.py:1 = example.py:4"]
    assert not repeated([module_of(plain), module_of("\n".join(ten[1:]))])


# -- said -----------------------------------------------------------------------------------------------


def promises() -> dict[str, list[str]]:
    """The docstrings of protocols' methods, by name: classes that keep these promises need none."""
    found: dict[str, list[str]] = {}
    for module in SOURCES.values():
        for each in module.definitions:
            if any(base.startswith("Protocol") for base in each.bases) and "." in each.name:
                found.setdefault(each.name.rpartition(".")[2], []).append(each.docstring)
    return found


PROMISES = promises()
ERRORS = {each.name for each in SOURCES["errors.py"].definitions if isinstance(each.node, ast.ClassDef)}


def is_silent(each: Definition) -> bool:
    return each.is_public and not each.docstring and each.name.rpartition(".")[2] not in PROMISES


@every_module
def test_everything_public_says_what_it_is(module):
    assert ast.get_docstring(module.tree)
    silent = {each.name for each in module.definitions if is_silent(each)}
    if module.path in KERNELS:  # their contracts are those of the functions that call them
        silent -= {each.name for each in SOURCES[KERNELS[module.path]].definitions}
    assert not silent


def raised(node: ast.AST) -> Iterator[str]:
    """The names of our errors that a body raises itself, not in a function that it defines."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Raise) and child.exc is not None:
            error = child.exc.func if isinstance(child.exc, ast.Call) else child.exc
            yield from {ast.unparse(error)} & ERRORS
        if not isinstance(child, ast.FunctionDef | ast.ClassDef | ast.Lambda):
            yield from raised(child)


def hides_its_errors(each: Definition) -> bool:
    """Whether a public function raises one of our errors, and neither it nor its protocol says so."""
    if isinstance(each.node, ast.ClassDef) or not each.is_public or not list(raised(each.node)):
        return False
    said = [each.docstring, *PROMISES.get(each.name.rpartition(".")[2], ())]
    return not any(re.search(r"\bRaises?\b", text) for text in said)


@every_module
def test_what_raises_says_so(module):
    assert not [each.name for each in module.definitions if hides_its_errors(each)]


def test_a_word_that_is_missing_is_found():
    raises = '    """Do it.{}"""\n    if x:\n        raise UsageError("no")\n'
    (silent,) = module_of("def f(x): return x").definitions
    (hiding,) = module_of("def f(x):\n" + raises.format("")).definitions
    (frank,) = module_of("def f(x):\n" + raises.format(" Raises UsageError.")).definitions
    assert is_silent(silent) and not is_silent(hiding)
    assert hides_its_errors(hiding) and not hides_its_errors(frank)


# -- units ----------------------------------------------------------------------------------------------

SIZES, TIMES = (
    {"KIB", "MIB", "GIB"},
    ("TIMEOUT", "WAIT", "LEASE", "WINDOW", "AFTER", "PATIENCE", "EVERY"),
)


def constants(module: Module) -> Iterator[tuple[str, ast.expr]]:
    """The names that a module gives values, with these values."""
    for node in module.tree.body:
        match node:
            case ast.Assign(targets=[ast.Name(id=name)], value=value):
                yield name, value
            case ast.AnnAssign(target=ast.Name(id=name), value=ast.expr() as value):
                yield name, value


def without_unit(module: Module) -> list[str]:
    """Constants that are made of KiB and do not say bytes, or speak of time and do not say seconds."""
    found = []
    for name, value in constants(module):
        is_size = {node.id for node in ast.walk(value) if isinstance(node, ast.Name)} & SIZES
        is_number = isinstance(value, ast.Constant) and isinstance(value.value, int | float)
        is_time = is_number and any(word in name.split("_") for word in TIMES)
        if (is_size and not name.endswith("_BYTES")) or (is_time and not name.endswith("_S")):
            found.append(name)
    return found


@every_module
def test_sizes_and_times_carry_their_unit(module):
    assert module.path == "units.py" or not without_unit(module)


def test_a_constant_without_its_unit_is_found():
    assert without_unit(module_of("A = 8 * MIB\nB_BYTES = MIB\n_TIMEOUT = 3.0\nC_WAIT_S = 1")) == [
        "A", "_TIMEOUT",
    ]  # fmt: skip


# -- state ----------------------------------------------------------------------------------------------

CHANGES = {
    "add", "append", "appendleft", "clear", "discard", "extend", "insert", "pop", "popitem", "popleft",
    "remove", "setdefault", "update",
}  # fmt: skip


def module_state(module: Module) -> set[str]:
    """Names of a module that its functions bind anew or change in place."""
    names = {name for name, _ in constants(module)}
    changed: set[str] = set()
    for node in (inner for function in module.functions for inner in ast.walk(function)):
        match node:
            case ast.Global(names=bound):
                changed |= set(bound)
            case ast.Call(func=ast.Attribute(value=ast.Name(id=name), attr=attr)) if attr in CHANGES:
                changed.add(name)
            case ast.Subscript(value=ast.Name(id=name), ctx=ast.Store() | ast.Del()):
                changed.add(name)
            case ast.Attribute(value=ast.Name(id=name), ctx=ast.Store() | ast.Del()):
                changed.add(name)
    return changed & names


def test_no_module_has_state_but_what_is_the_process_s_own():
    found = {(module.path, name) for module in SOURCES.values() for name in module_state(module)}
    assert found == set(PROCESS_STATE)


@pytest.mark.parametrize(
    "change", ["global x; x = 1", "x.append(1)", "x['a'] = 1", "del x[0]", "x.field = 1"]
)
def test_state_is_found_however_it_changes(change):
    assert module_state(module_of(f"x = y = []\nx = []\ndef f():\n    {change}\n")) == {"x"}
    assert not module_state(module_of("x = []\ndef f():\n    y = list(x)\n    y.append(1)\n"))
