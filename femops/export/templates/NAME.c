/* @MARK@: checks arguments and range, and evaluates the law of law.h chunk by chunk. */

#include "@NAME@.h"

#include <float.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

/* Where the response of some points goes; null where it is not wanted. */
struct answer {
  double *stress, *tangent, *stress_33, *tangent_33, *error;
  int *status;
};

static const double low[] = {@LOW@};
static const double high[] = {@HIGH@};

#include "law.h"

static const femops_law_info info = {
    FEMOPS_LAW_ABI,
    @DIM@,
    N_S,
    0,
    low,
    high,
    "@NAME@",
    @LAW_TEXT@,
    @CORRECTIONS@,
    @TITLE@,
    @UNITS@,
    "@MODEL@",
    "@LICENCE@",
};

/* Whether a strain is outside the range, up to round-off relative to its largest strain. */
static int outside(const double *strain) {
  double slack = 0.0;
  int inside = 1;
  for (int i = 0; i < N_S; i++) slack = fmax(slack, 1e-9 * fmax(fabs(low[i]), fabs(high[i])));
  for (int i = 0; i < N_S; i++) inside &= strain[i] >= low[i] - slack && strain[i] <= high[i] + slack;
  return !inside;
}

const femops_law_info *@NAME@_info(void) { return &info; }

int @NAME@_evaluate(size_t n, const double *strain, const double *state, double dt, double *stress, double *tangent,
                    double *stress_33, double *tangent_33, double *error, int *status) {
  int worst = FEMOPS_FINE;
  (void)state;
  (void)dt;
  if (n && !strain) return -1;
  for (size_t first = 0; first < n; first += CHUNK) {
    const int count = n - first < CHUNK ? (int)(n - first) : CHUNK;
    int found[CHUNK];
    struct answer answer = {
        stress ? stress + first * N_S : 0,
        tangent ? tangent + first * N_S * N_S : 0,
        stress_33 ? stress_33 + first : 0,
        tangent_33 ? tangent_33 + first * N_S : 0,
        error ? error + first : 0,
        found,
    };
    for (int i = 0; i < count; i++)
      found[i] = outside(strain + (first + (size_t)i) * N_S) ? FEMOPS_OUT_OF_RANGE : FEMOPS_FINE;
    evaluate_chunk(count, strain + first * N_S, &answer);
    for (int i = 0; i < count; i++) {
      worst = found[i] > worst ? found[i] : worst;
      if (status) status[first + (size_t)i] = found[i];
    }
  }
  return worst;
}
