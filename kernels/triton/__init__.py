"""Triton kernels for CUDA, one op a file; each states its formula and names its form in plain torch, for the tests.

Every kernel also runs in the Triton interpreter (``TRITON_INTERPRET=1`` set before the import), which is how they are
tested where there is no GPU, and compiles ahead of time for a named compute capability, which needs no GPU either.
What the interpreter cannot show: speed, and the rounding of bf16 and fp8 casts (it truncates).
"""
