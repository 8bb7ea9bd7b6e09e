"""Time per point of exported laws on one thread, against femops' own batch and a closed-form law in C.

Processor time, the least of some repeats. The C programs are compiled with the flags of the exported Makefile and
measure themselves.
"""

import subprocess
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
_PATHS: tuple[Any, ...] = ("auto", 1, 0, "adjoint")
_FLAGS = ["-std=c99", "-O3", "-march=native", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=fast"]

# Reads points and prints the shortest time per point [us] of responses and of responses with errors.
_PROGRAM = """
#define _POSIX_C_SOURCE 199309L
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
int rve_evaluate(size_t, const double *, const double *, double, double *, double *, double *, double *, double *,
                 int *);
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
        rve_evaluate(n, strain + 3 * done, 0, 1.0, out, out + 3 * n, out + 12 * n, out + 13 * n,
                     error ? out + 16 * n : 0, status);
        done += n;
      }
      const double seconds = (now() - begin) / (double)done;
      best = seconds < best ? seconds : best;
    }
    printf("%.17g\\n", 1e6 * best);
  }
  file = fopen("stress", "wb"); /* of the last call */
  return !file || fwrite(out, 8, 3 * n, file) != 3 * n;
}
"""

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
    strain, result = models.strains(16000, 11), {}
    with tempfile.TemporaryDirectory() as folder:
        base, phases = Path(folder), {phase: law_parameters(given) for phase, given in models.PHASES.items()}
        write_model(base / "model", Origin("equino", "-"), trained, phases)
        (base / "strain").write_bytes(strain.tobytes())
        (base / "saturating").mkdir()
        (base / "saturating" / "rve.c").write_text(_SATURATING)
        closed = _measured(base / "saturating", base / "strain", len(strain))
        result |= {f"saturating_c_{n}_us": closed[n][0] for n in _COUNTS}
        for corrections in _PATHS:
            mapping = {"law": "equino", "model": str(base / "model"), "corrections": corrections, "device": "cpu"}
            law = load_law(mapping)
            export_model(mapping, "c", base / f"path_{corrections}" / "rve")
            c = _measured(base / f"path_{corrections}" / "rve", base / "strain", len(strain))
            for n in _COUNTS:
                result |= {
                    f"{corrections}_{n}_c_us": c[n][0],
                    f"{corrections}_{n}_c_with_error_us": c[n][1],
                    f"{corrections}_{n}_femops_us": _femops(law, strain[:n]),
                }
            stress = np.fromfile(base / f"path_{corrections}" / "rve" / "stress").reshape(-1, 3)
            last = law.evaluate(strain[-len(stress) :], np.zeros((len(stress), law.n_state)), 1.0).stress
            result[f"{corrections}_difference"] = float(np.abs(stress - last).max() / np.abs(last).max())
            result[f"{corrections}_c_over_femops"] = c[1000][0] / result[f"{corrections}_1000_femops_us"]
            result[f"{corrections}_c_over_saturating_c"] = c[1000][0] / closed[1000][0]
    return result


def _femops(law: MaterialLaw, strain: Array) -> float:
    """Return the time per point of a law in femops [us]."""
    state, calls, times = np.zeros((len(strain), law.n_state)), 10, []
    for _ in range(1 + _REPEATS):  # the first compiles
        begin = time.process_time()
        for _ in range(calls):
            law.evaluate(strain, state, 1.0)
        times.append(time.process_time() - begin)
    return min(times[1:]) / calls / len(strain) * 1e6


def _measured(folder: Path, strain: Path, total: int) -> dict[int, list[float]]:
    """Return the times per point without and with errors [us] by number of points of a call."""
    (folder / "program.c").write_text(_PROGRAM.replace("REPEATS", str(_REPEATS)))
    command = ["cc", *_FLAGS, "-o", "program", "program.c", "rve.c", "-lm"]
    subprocess.run(command, cwd=folder, check=True)
    found = {}
    for n in _COUNTS:
        printed = subprocess.run(
            ["./program", str(n), str(total), str(strain)], cwd=folder, check=True, capture_output=True
        )
        found[n] = [float(one) for one in printed.stdout.split()]
    return found


PROBLEMS = {name: lambda options, name=name: _run(name, options) for name in ("rve1", "rve3")}
