"""The wgmma instructions as C++: text written here, since only a list can spell their operands.

A warpgroup multiplies A, 64 x 16, by B, 16 x n, and adds the product to an accumulator of which
each thread holds n / 2 numbers. In PTX every one of these is an operand of its own, which no C++
template can write. The compiler gets the text as a header in memory, ``HEADER``.
"""

HEADER = "wgmma.cuh"
WIDTHS = (64, 96, 128, 176, 192)  # of B: head dimensions, and rows of a tile


def header() -> str:
    """The C++ text: a class ``Wgmma<n>`` for each width, with the two products of attention.

    ``ss`` takes A and B from shared memory, both with the summed axis contiguous: S = Q K^T.
    ``rs`` takes A from registers, and B with the other axis contiguous: O += P V.
    ``WGMMA_TYPES`` names the element types; hopper.cuh defines it.
    """
    return "#pragma once\ntemplate <int N> struct Wgmma;\n" + "".join(map(wrappers, WIDTHS))


def wrappers(n: int) -> str:
    return f"template <> struct Wgmma<{n}> {{\n{from_shared(n)}{from_registers(n)}}};\n"


def from_shared(n: int) -> str:
    signature = f"ss(float (&d)[{n // 2}], u64 a, u64 b, int keep)"
    return function(n, signature, [("l", "a")], transposed="0, 0")


def from_registers(n: int) -> str:
    signature = f"rs(float (&d)[{n // 2}], const u32* a, u64 b, int keep)"
    return function(n, signature, [("r", f"a[{i}]") for i in range(4)], transposed="1")


def function(n: int, signature: str, a: list[tuple[str, str]], transposed: str) -> str:
    """One wrapper. Its last operands: keep (0: d is overwritten, not added to), the signs of A and
    B, and which of them, from shared memory, have their rows or columns contiguous instead."""
    d = [("+f", f"d[{i}]") for i in range(n // 2)]
    inputs = [*a, ("l", "b"), ("r", "keep")]
    places = [f"%{i}" for i in range(len(d) + len(inputs))]
    *a_places, b_place, keep = places[len(d) :]
    a_text = a_places[0] if len(a_places) == 1 else f"{{{', '.join(a_places)}}}"
    return (
        f"  static DEV void {signature} {{\n"
        '    asm volatile("{\\n.reg .pred p;\\n"\n'
        f'                 "setp.ne.b32 p, {keep}, 0;\\n"\n'
        f'                 "wgmma.mma_async.sync.aligned.m64n{n}k16.f32." WGMMA_TYPES " "\n'
        f'                 "{{{", ".join(places[: len(d)])}}}, {a_text}, {b_place}, "\n'
        f'                 "p, 1, 1, {transposed};\\n}}\\n"\n'
        f"                 : {operands(d)}\n"
        f"                 : {operands(inputs)});\n"
        "  }\n"
    )


def operands(pairs: list[tuple[str, str]]) -> str:
    return ", ".join(f'"{kind}"({name})' for kind, name in pairs)
