"""Kernels' machine code: compiled once by numba, from then on loaded by llvmlite alone.

Importing numba and having it load its own cache takes half a second of every process, as long as moving
a gigabyte does; loading finished machine code takes a few milliseconds. So the first process that needs
the kernels compiles them and leaves one object file in the user's cache folder, under a name that says
everything that its content depends on. Where that folder can't be written, every process compiles.
"""

from __future__ import annotations

import ctypes
import importlib
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import llvmlite
import llvmlite.binding as llvm
from blake3 import blake3
from numpy.typing import NDArray

from pipeline.cache import cache_folder, forget_unused, read_cached, write_cached

_ROOT = Path(__file__).parents[2]
_OPTIMISATION = 3
_kept_alive: list[Any] = []  # the engine owns the code: it must live as long as the process


@dataclass(frozen=True, slots=True)
class Source:
    """A module of numba's C functions, listed in its `ENTRY_POINTS`, and modules that it is made of."""

    module: str
    parts: tuple[str, ...] = ()

    @property
    def text(self) -> bytes:
        """All that the machine code is compiled from."""
        paths = (_ROOT / f"{name.replace('.', '/')}.py" for name in (self.module, *self.parts))
        return b"\0".join(path.read_bytes() for path in paths)


VECTORS = "pipeline.tensors.vector_source"
KERNELS = Source("pipeline.tensors.kernel_source", ("pipeline.tensors.bf16_source", VECTORS))

Signatures = Mapping[str, tuple[Any, tuple[Any, ...]]]  # by name: ctypes of the result and the arguments


def load(names: Iterable[str], source: Source = KERNELS) -> dict[str, int]:
    """The addresses of the entry points called `names`; 0 for one that this processor's code lacks."""
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    path = cache_folder() / f"kernels-{_key(source)}.o"
    code = read_cached(path)
    if code is None:
        code = _compile(source)
        write_cached(path, code)
        forget_unused(path.parent, "*kernels-*.o*")
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), _machine())
    engine.add_object_file(llvm.object_file.ObjectFileRef.from_data(code))
    engine.finalize_object()
    _kept_alive.append(engine)
    return {name: engine.get_function_address(name) for name in names}


class Functions:
    """Entry points by name, as C functions; all are loaded when the first one is wanted."""

    def __init__(self, signatures: Signatures, source: Source = KERNELS) -> None:
        self._signatures = signatures
        self._source = source
        self._lock = threading.Lock()
        self._ready: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        """The function called `name`, or None if this processor's code lacks it."""
        if not self._ready:
            with self._lock:
                if not self._ready:
                    found = load(self._signatures, self._source)
                    # All at once: other threads look without the lock.
                    self._ready = {
                        each: ctypes.CFUNCTYPE(result, *arguments)(found[each]) if found[each] else None
                        for each, (result, arguments) in self._signatures.items()
                    }
        return self._ready[name]


def address_of(array: NDArray[Any]) -> int:
    """The address of a flat array's first element."""
    try:
        return ctypes.addressof(ctypes.c_char.from_buffer(array.data))  # a third of `ctypes.data`'s time
    except (TypeError, ValueError):  # it can't be written to, or is empty
        assert array.flags.c_contiguous, "a kernel was given an array with gaps"
        return array.ctypes.data


def _compile(source: Source) -> bytes:
    """One object file with all entry points under their own names."""
    import numba

    settings: Any = numba.config
    settings.CPU_NAME, settings.CPU_FEATURES = llvm.get_host_cpu_name(), _features()
    module = llvm.parse_assembly("")
    for entry in importlib.import_module(source.module).ENTRY_POINTS:
        part = llvm.parse_assembly(entry._library.get_llvm_str())
        part.get_function(entry._wrapper_name).name = entry.__name__
        module.link_in(part)
    _cut_off(module)
    return bytes(_machine().emit_object(module))


def _cut_off(module: Any) -> None:
    """Let what would call numba's runtime stop the process instead.

    A later process does not have that runtime, and an object with names that nobody can resolve is
    loaded with other addresses in it missing too: then kernels crash that never call it. Kernels can't
    raise anyway.
    """
    wanted = [each.name for each in module.functions if each.is_declaration]
    stops = (
        f"define void @{name}() {{ call void @llvm.trap() unreachable }}"
        for name in wanted
        if name.startswith(("numba_", "NRT_"))
    )
    module.link_in(llvm.parse_assembly("\n".join(("declare void @llvm.trap()", *stops))))


def _machine() -> Any:
    return llvm.Target.from_default_triple().create_target_machine(
        cpu=llvm.get_host_cpu_name(),
        features=_features(),
        opt=_OPTIMISATION,
        reloc="default",
        codemodel="jitdefault",
        jit=True,
    )


def _features() -> str:
    """What this processor can do, with vectors of 512 bits where they do not slow its clock.

    LLVM prefers 256 bits on all of Intel's. That was right before Ice Lake, the first with VBMI2; since
    then the loops here take two thirds of the time with 512.
    """
    features = llvm.get_host_cpu_features()
    wide = features.get("avx512vbmi2", False)
    return str(features.flatten()) + (",-prefer-256-bit" if wide else "")


def _key(source: Source) -> str:
    """A digest of all that the machine code depends on."""
    hasher = blake3(source.text + Path(__file__).read_bytes())
    parts = (
        llvmlite.__version__,
        llvm.get_process_triple(),
        llvm.get_host_cpu_name(),
        _features(),
    )
    hasher.update("\0".join(parts).encode())
    return hasher.hexdigest(length=16)
