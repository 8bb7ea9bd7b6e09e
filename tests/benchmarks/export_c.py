"""Time per point and error of exported laws on one thread, against femops' own batch and a closed-form law in C.

Processor time, the least of some repeats, with the flags of the exported Makefile; the C programs measure themselves.
Errors are those of the C stress against the nested law, and the indicator that the law states of them.
"""

import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from benchmarks import equino_models as models

from femops import load_law
from femops.export.model import export_model
from femops.law import MaterialLaw
from femops.notation import Array
from femops.plugins import law_parameters
from femops.surrogate.store import Origin, write_model

_COUNTS = (1, 8, 1000)
_REPEATS = 7
_N_POINTS = 16000
_N_TRUTH = 64
_PATHS: tuple[Any, ...] = ("auto", 1, 0, "adjoint")
_COMPILERS = {"gcc": ["gcc"], "clang": [sys.executable, "-m", "ziglang", "cc", "-fno-sanitize=undefined"]}
_FLAGS = ["-std=c99", "-O3", "-march=native", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=fast"]

# Reads points, prints the shortest time per point [us] without and with errors, and writes what the last call gave.
_PROGRAM = """
#define _POSIX_C_SOURCE 199309L
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
PROTOTYPE;
static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}
int main(int count, char **given) {
  const size_t n = (size_t)atol(given[1]), total = (size_t)atol(given[2]);
  double *strain = malloc(8 * 3 * total), *out = malloc(8 * 17 * n);
  int *status = malloc(4 * n);
  FILE *file = fopen(given[3], "rb");
  if (count != 4 || !file || fread(strain, 8, 3 * total, file) != 3 * total) return 1;
  for (int error = 0; error < 2; error++) {
    double best = 1e9;
    for (int k = 0; k < REPEATS; k++) {
      const double begin = now();
      size_t done = 0;
      while (done < total) {
        double *at = strain + 3 * done;
        CALL;
        done += n;
      }
      const double seconds = (now() - begin) / (double)done;
      best = seconds < best ? seconds : best;
    }
    printf("%.17g\\n", 1e6 * best);
  }
  file = fopen("out", "wb");
  (void)status;
  return !file || fwrite(out, 8, 17 * n, file) != 17 * n;
}
"""

_LAW = {
    "PROTOTYPE": "int rve_evaluate(size_t, const double *, const double *, double, double *, double *, double *,"
    " double *, double *, int *)",
    "CALL": "rve_evaluate(n, at, 0, 1.0, out, out + 3 * n, out + 12 * n, out + 13 * n, error ? out + 16 * n : 0,"
    " status)",
}
_UMAT_ARGUMENTS = dict.fromkeys(range(37), "0") | {0: "out", 1: "out + 12", 2: "out + 3", 10: "at"}
_UMAT_ARGUMENTS |= {21: "&n_tens", 22: "&n_statv", 23: "props", 24: "&n_props"}
_UMAT = {
    "PROTOTYPE": f"void umat_({', '.join(['const void *'] * 37)})",
    "CALL": "const int n_tens = 3, n_statv = 2, n_props = 3; const double props[] = {1.0, 0.0, !error};"
    f" umat_({', '.join(_UMAT_ARGUMENTS.values())})",
}

# The phase `saturating` in plane strain: stress, tangent and the row of 33.
_SATURATING = """
#include <math.h>
#include <stddef.h>
int rve_evaluate(size_t n, const double *strain, const double *state, double dt, double *stress, double *tangent,
                 double *stress_33, double *tangent_33, double *error, int *status) {
  const double K = 4780.0, alpha1 = 50.0, alpha2 = 0.06;
  (void)state, (void)dt, (void)error;
  for (size_t p = 0; p < n; p++) {
    const double *e = strain + 3 * p, third = (e[0] + e[1]) / 3.0, d[4] = {e[0] - third, e[1] - third, e[2], -third};
    const double size = sqrt(d[0] * d[0] + d[1] * d[1] + d[2] * d[2] + d[3] * d[3]);
    const double secant = alpha1 / (alpha2 + size), pressure = 3.0 * K * third;
    const double along = -secant * secant / (alpha1 * (size > 0.0 ? size : 1.0)), coupling = K - secant / 3.0;
    for (int i = 0; i < 3; i++) {
      stress[3 * p + i] = secant * d[i] + (i < 2 ? pressure : 0.0);
      for (int j = 0; j < 3; j++)
        tangent[9 * p + 3 * i + j] = along * d[i] * d[j] + (i < 2 && j < 2 ? coupling : 0.0) + (i == j ? secant : 0.0);
      tangent_33[3 * p + i] = along * d[3] * d[i] + (i < 2 ? coupling : 0.0);
    }
    stress_33[p] = secant * d[3] + pressure;
    status[p] = 0;
  }
  return 0;
}
"""


def _run(name: str, options: dict[str, str]) -> dict[str, Any]:
    nested = models.nested(name, predictor=False)
    trained = models.train(nested, models.snapshots(nested, models.strains(64, 1)), networks={"width": 32})
    strain = models.strains(_N_POINTS, 11)
    few = strain[-_N_TRUTH:]
    truth = nested.evaluate(few, np.zeros((_N_TRUTH, nested.n_state)), 1.0).stress
    with tempfile.TemporaryDirectory() as folder:
        base, phases = Path(folder), {phase: law_parameters(given) for phase, given in models.PHASES.items()}
        write_model(base / "model", Origin("equino", "-"), trained, phases)
        strain.tofile(base / "strain")
        (base / "saturating" / "rve").mkdir(parents=True)
        (base / "saturating" / "rve" / "rve.c").write_text(_SATURATING)
        result = {}
        for compiler in _COMPILERS:
            closed = _measured(base / "saturating" / "rve", compiler, _LAW, _COUNTS)
            result |= {f"saturating_{n}_{compiler}_us": times[0] for n, times in closed.items()}
        for corrections in _PATHS:
            found = _path(base, corrections, strain, truth, result)
            result |= {f"{corrections}_{key}": value for key, value in found.items()}
    return result


def _path(base: Path, corrections: Any, strain: Array, truth: Array, closed: dict[str, float]) -> dict[str, float]:
    """Return times, ratios and errors of one path."""
    mapping = {"law": "equino", "model": str(base / "model"), "corrections": corrections, "device": "cpu"}
    law, result = load_law(mapping), {}
    for kind in ("c", "umat"):
        export_model(mapping, kind, base / f"{kind}_{corrections}" / "rve")
    for n in _COUNTS:
        result[f"{n}_femops_us"] = _femops(law, strain[:n])
    for compiler in _COMPILERS:
        c = _measured(base / f"c_{corrections}" / "rve", compiler, _LAW, _COUNTS)
        umat = _measured(base / f"umat_{corrections}" / "rve", compiler, _UMAT, (1,))
        for where, times in [*((f"{n}_{compiler}", c[n]) for n in _COUNTS), (f"umat_{compiler}", umat[1])]:
            result |= {f"{where}_us": times[0], f"{where}_with_error_us": times[1]}
        result[f"{compiler}_over_femops"] = c[1000][0] / result["1000_femops_us"]
        result[f"{compiler}_over_saturating"] = c[1000][0] / closed[f"saturating_1000_{compiler}_us"]
        out = np.fromfile(base / f"c_{corrections}" / "rve" / "out")
        stress, error = out[:3000].reshape(-1, 3), out[16000:]
        last = law.evaluate(strain[-1000:], np.zeros((1000, law.n_state)), 1.0).stress
        result[f"{compiler}_difference"] = float(np.abs(stress - last).max() / np.abs(last).max())
    result |= models.spread("S", models.relative(stress[-len(truth) :], truth))
    return result if corrections == 0 else result | models.spread("indicator", error[-len(truth) :])


def _femops(law: MaterialLaw, strain: Array) -> float:
    """Return the time per point of a law in femops [us]."""
    state, calls, times = np.zeros((len(strain), law.n_state)), 10, []
    for _ in range(1 + _REPEATS):  # the first compiles
        begin = time.process_time()
        for _ in range(calls):
            law.evaluate(strain, state, 1.0)
        times.append(time.process_time() - begin)
    return min(times[1:]) / calls / len(strain) * 1e6


def _measured(folder: Path, compiler: str, called: dict[str, str], counts: tuple[int, ...]) -> dict[int, list[float]]:
    """Return the times per point without and with errors [us] by number of points of a call."""
    text = _PROGRAM.replace("REPEATS", str(_REPEATS))
    for name, code in called.items():
        text = text.replace(name, code)
    (folder / "program.c").write_text(text)
    sources = [name for name in ("program.c", "rve.c", "umat.c") if (folder / name).exists()]
    subprocess.run([*_COMPILERS[compiler], *_FLAGS, "-o", "program", *sources, "-lm"], cwd=folder, check=True)
    found, strain = {}, folder.parents[1] / "strain"
    for n in counts:
        command = ["./program", str(n), str(_N_POINTS), str(strain)]
        printed = subprocess.run(command, cwd=folder, check=True, capture_output=True)
        found[n] = [float(one) for one in printed.stdout.split()]
    return found


PROBLEMS = {name: lambda options, name=name: _run(name, options) for name in ("rve1", "rve3")}
