"""The muSpectre half of `against_muspectre`: a sphere in a matrix, elastic. Needs muSpectre, not femops.

Run by `against_muspectre` as `muspectre_side.py CELLS CONTRAST LOADS TOLERANCE`; writes JSON to standard output.
"""

import json
import sys
import time
from pathlib import Path

import muSpectre
import numpy as np


def solved(cells: int, contrast: float, loads: int, tolerance: float) -> tuple[list[float], list[int]]:
    """Return the homogenized stresses under unit strains, flattened, and the numbers of iterations."""
    cell = muSpectre.Cell([cells] * 3, [1.0] * 3, muSpectre.Formulation.small_strain)
    elastic = muSpectre.material.MaterialLinearElastic1_3d
    matrix = elastic.make(cell, "matrix", 1000.0, 0.3)
    fibre = elastic.make(cell, "fibre", 1000.0 * contrast, 0.3)
    x = (np.arange(cells) + 0.5) / cells - 0.5
    inside = x[:, None, None] ** 2 + x[:, None] ** 2 + x**2 <= 0.3**2
    for number, place in cell.pixels.enumerate():
        (fibre if inside[tuple(place)] else matrix).add_pixel(number)
    cell.initialise()
    stress, iterations = [], []
    for i, j in ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))[:loads]:
        strain = np.zeros((3, 3), order="F")
        strain[i, j] += 0.5
        strain[j, i] += 0.5
        krylov = muSpectre.solvers.KrylovSolverCG(cell, tolerance, 1000)
        found = muSpectre.solvers.newton_cg(cell, strain, krylov, tolerance, tolerance)
        stress += found.stress.reshape(9, -1, order="F").mean(axis=1).tolist()
        iterations.append(krylov.counter)
    return stress, iterations


def _memory(name: str) -> float:
    """Return VmRSS, the memory now, or VmHWM, its peak since the peak was reset [MB]."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) / 1024.0


if __name__ == "__main__":
    size, ratio, count, rtol = int(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])
    solved(5, ratio, 1, rtol)
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # resets the peak, which the imports set
    floor, begin = _memory("VmRSS"), time.process_time()
    of_loads, counts = solved(size, ratio, count, rtol)
    seconds = time.process_time() - begin
    answer = {"seconds": seconds, "memory_MB": _memory("VmHWM") - floor, "stress": of_loads, "iterations": counts}
    sys.stdout.write(json.dumps(answer))
