"""A GPU's thread block on the CPU: the kernels' own source, compiled by g++ and run by fibers.

Nothing here imitates speed. What is modelled is what can go wrong: the layout of the registers of
tensor-core instructions, copies that arrive late, barriers, shared memory that holds rubbish until
it is written, and banks that two threads want at once. What is not: the order in which writes of
one thread become visible to others without a barrier, the compiler's own rearrangements, and the
hardware's approximations of exp2 and 1 / x. Those only a GPU shows. Wants Linux and g++.
"""

from .emulated import Edit, Emulated, EmulationError, build, edited

__all__ = ["Edit", "Emulated", "EmulationError", "build", "edited"]
