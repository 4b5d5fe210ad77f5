"""BLAS and LAPACK routines that work in place and let other threads run.

scipy's own wrappers keep Python's lock while LAPACK works, so two threads are no faster than one, and
numpy's copy the matrix. The routines here are the same ones: scipy publishes their addresses for
compiled code (`scipy.linalg.cython_blas`, `cython_lapack`), and ctypes drops the lock around a call.

Matrices are handed over by address in Fortran order: a C-ordered array of shape (m, m) is its own
transpose there, so that its *upper* triangle is what LAPACK calls lower ("L").
"""

import ctypes
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from scipy.linalg import cython_blas, cython_lapack

PREFIX = {np.dtype(np.float64): "d", np.dtype(np.float32): "s"}
SCALAR = {np.dtype(np.float64): ctypes.c_double, np.dtype(np.float32): ctypes.c_float}
ARGUMENTS = {
    "syrk": 10,
    "symm": 12,
    "syr2k": 12,
    "sytrd": 10,
    "sterf": 4,
    "sbtrd": 12,
    "ormtr": 13,
    "geqrf": 8,
    "larft": 9,
    "pbtrf": 6,
    "pbtrs": 9,
}
"""How many each routine takes."""


@cache
def _routine(module: Any, name: str) -> Callable[..., None]:
    api = ctypes.pythonapi
    api.PyCapsule_GetName.restype, api.PyCapsule_GetName.argtypes = ctypes.c_char_p, [ctypes.py_object]
    api.PyCapsule_GetPointer.restype = ctypes.c_void_p
    api.PyCapsule_GetPointer.argtypes = [ctypes.py_object, ctypes.c_char_p]
    capsule = module.__pyx_capi__[name]
    address = api.PyCapsule_GetPointer(capsule, api.PyCapsule_GetName(capsule))
    return ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * ARGUMENTS[name[1:]])(address)


def call(name: str, dtype: np.dtype[Any], *arguments: Any) -> None:
    """Call a routine.

    Args:
        name: Without the letter of its precision: `syrk`.
        dtype: float64 or float32.
        *arguments: In LAPACK's order; letters as bytes, integers as int, scalars as float, arrays
            as arrays (their first element's address is passed, whatever their strides).
    """
    module = cython_blas if name in {"syrk", "symm", "syr2k"} else cython_lapack
    passed: list[Any] = []
    for argument in arguments:
        if isinstance(argument, np.ndarray):
            passed.append(argument.ctypes.data)
        elif isinstance(argument, bytes):
            passed.append(ctypes.c_char_p(argument))
        elif isinstance(argument, float):
            passed.append(ctypes.byref(SCALAR[dtype](argument)))
        else:
            passed.append(ctypes.byref(ctypes.c_int(argument)))
    _routine(module, PREFIX[dtype] + name)(*passed)


def call_checked(name: str, dtype: np.dtype[Any], *arguments: Any) -> None:
    """Call a LAPACK routine whose last argument, not given here, tells whether it succeeded.

    Args:
        name: As for `call`.
        dtype: As for `call`.
        *arguments: All but the last.

    Raises:
        ArithmeticError: If the routine says that it failed.
    """
    status = np.zeros(1, dtype=np.int32)
    call(name, dtype, *arguments, status)
    if status[0]:
        raise ArithmeticError(f"LAPACK's {PREFIX[dtype]}{name} failed with status {status[0]}")
