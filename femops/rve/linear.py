"""The linear solver seam: many symmetric positive definite systems with one sparsity.

PARDISO of the MKL where it installs, MUMPS through PETSc everywhere else.
"""

import ctypes
import sys
from typing import Any, Literal, Protocol

import numpy as np
import scipy.sparse as sp

from femops.errors import CaseError
from femops.notation import Array

LinearSolverName = Literal["auto", "pardiso", "mumps"]


class LinearSolver(Protocol):
    """Solves a batch of systems whose matrices share one sparsity."""

    def solve(self, values: Array, rhs: Array) -> tuple[Array, Any]:
        """Factorise and solve every system of a batch.

        Args:
            values: Upper triangles, in the order of the pattern. Shape (nnz, N).
            rhs: Right-hand sides. Shape (n, k, N).

        Returns:
            Solutions, shape (n, k, N), and whether each factorisation succeeded, shape (N,).
        """
        ...


def linear_solver(name: LinearSolverName, pattern: sp.csr_array) -> LinearSolver:
    """Return the solver named, analysed for the sparsity of the upper triangle.

    Raises:
        CaseError: `pardiso` was asked for and is not installed.
    """
    if name == "mumps":
        return MumpsSolver(pattern)
    try:
        return PardisoSolver(pattern)
    except ImportError as error:
        if name == "pardiso":
            raise CaseError("'pardiso' is not installed (package pypardiso); expected auto or mumps") from error
        return MumpsSolver(pattern)


class PardisoSolver:
    """MKL PARDISO, Cholesky, one symbolic phase for all systems.

    Raises:
        ImportError: The MKL is not installed.
    """

    def __init__(self, pattern: sp.csr_array) -> None:
        from pypardiso import PyPardisoSolver

        self._pardiso = PyPardisoSolver().libmkl["pardiso"]  # indexing makes a function of our own, without argtypes
        self._pardiso.restype = None
        self._n = int(pattern.shape[0])
        self._indptr = pattern.indptr.astype(np.int32)
        self._indices = pattern.indices.astype(np.int32)
        self._handle = np.zeros(64, dtype=np.int64)
        self._options = np.zeros(64, dtype=np.int32)
        self._options[[0, 1, 34]] = 1, 2, 1  # own options, METIS ordering, indices from zero
        self._options[9] = 8
        empty = np.zeros(1)
        error = self._call(11, np.ascontiguousarray(pattern.data), 1, empty, empty)
        if error:
            raise MemoryError(f"PARDISO could not analyse an RVE of {self._n} unknowns (error {error})")

    def solve(self, values: Array, rhs: Array) -> tuple[Array, Any]:
        """See `LinearSolver.solve`."""
        n, k, batch = rhs.shape
        matrices = np.ascontiguousarray(values.T)
        right = np.ascontiguousarray(rhs.transpose(2, 1, 0))
        solution = np.empty_like(right)
        success = np.array(
            [self._call(23, matrices[i], k, right[i], solution[i]) == 0 for i in range(batch)], dtype=bool
        )
        return np.ascontiguousarray(solution.transpose(2, 1, 0)), success

    def __del__(self) -> None:
        if hasattr(self, "_options") and not sys.is_finalizing():
            empty = np.zeros(1)
            self._call(-1, empty, 1, empty, empty)

    def _call(self, phase: int, matrix: Array, k: int, right: Array, solution: Array) -> int:
        error = ctypes.c_int32(0)
        one, kind, silent = ctypes.c_int32(1), ctypes.c_int32(2), ctypes.c_int32(0)
        size, count, step = ctypes.c_int32(self._n), ctypes.c_int32(k), ctypes.c_int32(phase)
        unused = ctypes.c_int32(0)
        self._pardiso(
            self._handle.ctypes,
            ctypes.byref(one),
            ctypes.byref(one),
            ctypes.byref(kind),
            ctypes.byref(step),
            ctypes.byref(size),
            ctypes.c_void_p(matrix.ctypes.data),
            ctypes.c_void_p(self._indptr.ctypes.data),
            ctypes.c_void_p(self._indices.ctypes.data),
            ctypes.byref(unused),
            ctypes.byref(count),
            ctypes.c_void_p(self._options.ctypes.data),
            ctypes.byref(silent),
            ctypes.c_void_p(right.ctypes.data),
            ctypes.c_void_p(solution.ctypes.data),
            ctypes.byref(error),
        )
        return int(error.value)


class MumpsSolver:
    """MUMPS through PETSc, Cholesky, one symbolic phase for all systems."""

    def __init__(self, pattern: sp.csr_array) -> None:
        from petsc4py import PETSc

        self._petsc = PETSc
        n = int(pattern.shape[0])
        self._csr = (pattern.indptr.astype(PETSc.IntType), pattern.indices.astype(PETSc.IntType))
        self._matrix = PETSc.Mat().createSBAIJ((n, n), 1, csr=(*self._csr, pattern.data), comm=PETSc.COMM_SELF)
        self._matrix.setOption(PETSc.Mat.Option.SPD, True)
        self._solver = PETSc.KSP().create(PETSc.COMM_SELF)
        self._solver.setType("preonly")
        self._solver.setOperators(self._matrix)
        preconditioner = self._solver.getPC()
        preconditioner.setType("cholesky")
        preconditioner.setFactorSolverType("mumps")

    def solve(self, values: Array, rhs: Array) -> tuple[Array, Any]:
        """See `LinearSolver.solve`."""
        n, k, batch = rhs.shape
        solution = np.empty_like(rhs)
        success = np.zeros(batch, dtype=bool)
        for i in range(batch):
            self._matrix.setValuesCSR(*self._csr, np.ascontiguousarray(values[:, i]))
            self._matrix.assemble()
            self._solver.setOperators(self._matrix)
            self._solver.setUp()
            factor = self._solver.getPC().getFactorMatrix()
            right = self._petsc.Mat().createDense((n, k), array=np.asfortranarray(rhs[:, :, i]), comm=factor.comm)
            answer = self._petsc.Mat().createDense((n, k), comm=factor.comm)
            answer.setUp()
            factor.matSolve(right, answer)
            solution[:, :, i] = answer.getDenseArray()
            success[i] = np.isfinite(solution[:, :, i]).all()
        return solution, success
