"""The iterative solver of RVEs on grids against FANS, one load case: a sphere in a matrix of voxels, elastic.

FANS (github.com/DataAnalyticsEngineering/FANS, C++) has the same linear hexahedra, so that the stresses agree; grids
are even, as odd ones diverge in FANS 0.6.2. Both solve to `against_muspectre.TOLERANCE`: ours of the residual relative
to the internal forces, FANS of the L2 norm of the residual relative to the first. Times are processor times from the
voxels on, those of FANS less a run of 4³ voxels, and so is its memory. FANS is found through `--fans`, the command.
"""

import json
import os
import shlex
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from benchmarks.against_muspectre import TOLERANCE, difference, one_load
from benchmarks.rve_fft import MATERIALS


def measure(cells: int, contrast: float, options: Mapping[str, str]) -> dict[str, Any]:
    """Run both sides."""
    smallest, theirs, exact = (
        _fans(n, contrast, rtol, options["fans"]) for n, rtol in ((4, TOLERANCE), (cells, TOLERANCE), (cells, 1e-11))
    )
    seconds, memory = (theirs[name] - smallest[name] for name in ("seconds", "memory_MB"))
    return {
        "fans_s": seconds,
        "fans_memory_MB": memory,
        "fans_iterations": theirs["iterations"],
        "fans_stress_11": theirs["stress"][0],
        "fans_error_of_tolerance": difference(theirs["stress"], exact["stress"]),
        **one_load(cells, contrast, seconds, memory),
    }


def _fans(cells: int, contrast: float, rtol: float, command: str) -> dict[str, Any]:
    """Return the processor time, the peak memory, the iterations and the stress of FANS."""
    x = (np.arange(cells) + 0.5) / cells - 0.5
    inside = x[:, None, None] ** 2 + x[:, None] ** 2 + x**2 <= 0.3**2
    young, nu = (float(MATERIALS["elastic"][name]) for name in ("E", "nu"))  # type: ignore[arg-type]
    bulk, shear = young / (3.0 - 6.0 * nu), young / (2.0 + 2.0 * nu)
    properties = {"bulk_modulus": [bulk, contrast * bulk], "shear_modulus": [shear, contrast * shear]}
    given = {
        "microstructure": {"filepath": "voxels.h5", "datasetname": "/voxels", "L": [1.0, 1.0, 1.0]},
        "problem_type": "mechanical",
        "strain_type": "small",
        "materials": [{"phases": [0, 1], "matmodel": "LinearElasticIsotropic", "material_properties": properties}],
        "FE_type": "HEX8",
        "method": "cg",
        "error_parameters": {"measure": "L2", "type": "relative", "tolerance": rtol},
        "n_it": 1000,
        "macroscale_loading": [[[1.0, 0.0, 0.0, 0.0, 0.0, 0.0]]],
        "results": ["stress_average", "absolute_error"],
    }
    with tempfile.TemporaryDirectory() as folder:
        with h5py.File(Path(folder) / "voxels.h5", "w") as file:
            file["voxels"] = inside.astype(np.uint16)
        (Path(folder) / "input.json").write_text(json.dumps(given), encoding="utf-8")
        process = subprocess.Popen(
            [*shlex.split(command), "input.json", "output.h5"], cwd=folder, stdout=subprocess.DEVNULL
        )
        ended, memory = 0, 0.0
        while not ended:
            memory = max(memory, _peak(process.pid))
            time.sleep(0.002)
            ended, status, used = os.wait4(process.pid, os.WNOHANG)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise RuntimeError(f"FANS failed with exit code {process.returncode}")
        with h5py.File(Path(folder) / "output.h5") as file:
            found: list[Any] = []
            file.visititems(lambda _, one: found.append(one) if isinstance(one, h5py.Dataset) else None)
            values = {one.name.rsplit("/", 1)[-1]: np.asarray(one).ravel() for one in found}
    return {
        "seconds": used.ru_utime + used.ru_stime,
        "memory_MB": memory,
        "iterations": len(values["absolute_error"]),
        "stress": values["stress_average"].tolist(),
    }


def _peak(process: int) -> float:
    """Return the peak memory of a process [MB], zero if it has ended; what `wait4` returns includes our own."""
    lines = Path(f"/proc/{process}/status").read_text(encoding="ascii").splitlines()
    return max((int(line.split()[1]) / 1024.0 for line in lines if line.startswith("VmHWM")), default=0.0)


PROBLEMS: dict[str, Callable[[Mapping[str, str]], dict[str, Any]]] = {
    f"{cells}_contrast_{contrast}": partial(measure, cells, float(contrast))
    for cells in (32, 64)
    for contrast in (10, 100)
}
