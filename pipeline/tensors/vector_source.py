"""Instructions on 16 elements at once, in LLVM's vector types, for loops that LLVM can't widen itself.

Part of the modules that `pipeline.tensors.native` compiles. On a processor with narrower vectors LLVM
makes several instructions of one; what they compute is the same.
"""

from __future__ import annotations

from llvmlite import ir
from numba import types  # type: ignore[attr-defined]
from numba.extending import intrinsic

WIDTH = 16  # elements of a vector

BIT, I16, I32, I64 = (ir.IntType(bits) for bits in (1, 16, 32, 64))
FLAGS = ir.VectorType(BIT, WIDTH)
WIDE = ir.VectorType(I32, WIDTH)
FLOATS = ir.VectorType(ir.FloatType(), WIDTH)


class Steps:
    """The instructions of a step, on a builder."""

    def __init__(self, builder):
        self.b = builder

    @staticmethod
    def all(kind, value):
        """A constant in every lane."""
        return ir.Constant(kind, [value] * kind.count)

    def every(self, number, kind=WIDE):
        """A number in every lane."""
        undefined = ir.Constant(kind, ir.Undefined)
        single = self.b.insert_element(undefined, number, ir.Constant(I32, 0))
        return self.b.shuffle_vector(single, undefined, self.all(WIDE, 0))

    def call(self, name, result, *arguments):
        """An instruction of LLVM's that the builder lacks."""
        module = self.b.module
        function = module.globals.get(name)
        if function is None:
            kind = ir.FunctionType(result, [argument.type for argument in arguments])
            function = ir.Function(module, kind, name)
        return self.b.call(function, arguments)

    def place(self, pointer, index, vector):
        """The address of `vector` at element number `index`."""
        first = self.b.gep(self.b.bitcast(pointer, vector.element.as_pointer()), [index])
        return self.b.bitcast(first, vector.as_pointer())

    def load(self, pointer, index, bits=16):
        """16 elements of `bits` bits, as 32-bit numbers."""
        vector = ir.VectorType(ir.IntType(bits), WIDTH)
        found = self.b.load(self.place(pointer, index, vector), align=1)
        return found if bits == 32 else self.b.zext(found, WIDE)

    def store(self, wide, pointer, index, bits=16):
        """The low `bits` bits of 16 numbers."""
        vector = ir.VectorType(ir.IntType(bits), WIDTH)
        narrow = wide if bits == 32 else self.b.trunc(wide, vector)
        self.b.store(narrow, self.place(pointer, index, vector), align=1)

    def mask(self, flags):
        """A bit for each lane, lane 0 in the lowest."""
        return self.b.zext(self.b.bitcast(flags, I16), I64)

    def how_many(self, flags):
        """How many lanes are set."""
        count = self.call("llvm.ctpop.i16", I16, self.b.bitcast(flags, I16))
        return self.b.zext(count, I64)

    def widen(self, pointer, index):
        """The float32 values of 16 bfloat16."""
        return self.b.shl(self.load(pointer, index), self.all(WIDE, 16))


@intrinsic
def lowest(typingctx, mask):
    """The number of the lowest bit that is set in `mask`, which is not 0."""

    def codegen(context, builder, signature, args):
        return Steps(builder).call("llvm.cttz.i64", I64, args[0], ir.Constant(BIT, 1))

    return types.int64(types.int64), codegen
