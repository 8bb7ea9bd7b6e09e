"""The fedoo half of `against_fedoo`: fedoo's FE2 law, driven along given strains. Needs fedoo, not femops.

Run by `against_fedoo` as `fedoo_side.py JOB.json ARRAYS.npz ANSWER.npz`. `FE2.update` is called once per increment for
all points, as fedoo's macroscale Newton calls it in the first iteration of an increment. Three properties of fedoo
1.1.0 are worked around, outside the time measured:

- A second call in the same increment starts from RVEs that the first one has already advanced: there is none here.
- RVEs copied from one assembly keep the stress of their first call: every point gets an assembly of its own.
- The condition `Strain` is not removed by its name, so that conditions pile up: they are removed by position.
"""

import contextlib
import io
import json
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fedoo as fd
import numpy as np
from fedoo.constitutivelaw.fe2 import FE2
from fedoo.core import base
from fedoo.util.voigt_tensors import StrainTensorList


def _law(phase: dict[str, Any]) -> Any:
    bulk, shear = phase["K"], phase["G"]
    young = 9.0 * bulk * shear / (3.0 * bulk + shear)
    poisson = (3.0 * bulk - 2.0 * shear) / (2.0 * (3.0 * bulk + shear))
    if phase["law"] == "elastic":
        return fd.constitutivelaw.ElasticIsotrop(young, poisson)
    # EPICP: J2 with hardening · pᵐ; here m = 1.
    return fd.constitutivelaw.Simcoon(
        "EPICP", np.array([young, poisson, 0.0, phase["yield_stress"], phase["hardening"], 1.0])
    )


def _rves(job: dict[str, Any], arrays: Any, count: int) -> list[Any]:
    names = list(job["phases"])
    cells = {name: np.flatnonzero(arrays["phase"] == i) for i, name in enumerate(names)}
    mesh = fd.Mesh(arrays["points"], arrays["cells"], job["element"], element_sets=cells, name="rve")
    assemblies = []
    for i in range(count):
        laws = tuple(_law(job["phases"][name]) for name in names)
        material = fd.constitutivelaw.Heterogeneous(laws, tuple(names))
        form = fd.weakform.StressEquilibrium(material)
        assemblies.append(fd.Assembly.create(form, mesh, job["element"], name=f"rve_{i}"))
    return assemblies


def _with_tolerance(nlsolve: Any, tolerance: float) -> Any:
    def solve(**options: Any) -> None:
        nlsolve(**{**options, "tol_nr": tolerance})

    return solve


def solve(job: dict[str, Any], arrays: Any) -> dict[str, Any]:
    """Evaluate the FE2 law along `arrays["strain"]`, shape (n_increments, n_points, 6), fedoo's Voigt order."""
    fd.ModelingSpace("3D")
    strain = arrays["strain"]
    n_points = strain.shape[1]
    macro = SimpleNamespace(n_gauss_points=n_points, sv={}, sv_start={})
    problem = SimpleNamespace(dtime=1.0 / len(strain), make_active=lambda: None)
    begin = time.perf_counter()
    law = FE2(_rves(job, arrays, n_points))
    law.initialize(macro, problem)
    initialisation = time.perf_counter() - begin
    if job["tolerance"] is not None:  # FE2 asks for 0.05
        for micro in law.list_problem:
            micro.nlsolve = _with_tolerance(micro.nlsolve, job["tolerance"])
    seconds, stress, tangent = [], [], []
    macro.sv_start["Strain"] = StrainTensorList(np.zeros_like(strain[0].T))
    for increment in strain:
        macro.sv["Strain"] = StrainTensorList(np.ascontiguousarray(increment.T))
        begin = time.perf_counter()
        law.update(macro, problem)
        seconds.append(time.perf_counter() - begin)
        stress.append(np.array(macro.sv["Stress"].asarray()).T)
        tangent.append(np.moveaxis(macro.sv["TangentMatrix"], 2, 0).copy())
        macro.sv_start["Strain"] = macro.sv["Strain"]
        for micro in law.list_problem:
            micro.bc.remove(len(micro.bc) - 1)
    return {
        "seconds": np.array(seconds),
        "stress": np.array(stress),
        "tangent": np.array(tangent),
        "initialisation": initialisation,
        "pardiso": base.USE_PYPARDISO,
        "version": fd.__version__,
    }


def main() -> None:
    """Read the job, solve it quietly, write the answer."""
    job_file, array_file, answer_file = map(Path, sys.argv[1:])
    with contextlib.redirect_stdout(io.StringIO()):
        answer = solve(json.loads(job_file.read_text(encoding="utf-8")), np.load(array_file))
    np.savez(answer_file, **answer)


if __name__ == "__main__":
    main()
