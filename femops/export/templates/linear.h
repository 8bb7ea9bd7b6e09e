/* A law with a constant tangent, and the bound sqrt(E.B.E / E.C.E) of its error if it has one. */

#include "tables.h"

static double form(const double *matrix, const double *strain) {
  double sum = 0.0;
  for (int i = 0; i < N_S; i++)
    for (int j = 0; j < N_S; j++) sum += strain[i] * matrix[i * N_S + j] * strain[j];
  return sum;
}

static void evaluate_chunk(int count, const double *strain, struct answer *answer) {
  for (int p = 0; p < count; p++, strain += N_S) {
    if (answer->tangent) memcpy(answer->tangent + p * N_S * N_S, stiffness, sizeof stiffness);
    for (int i = 0; answer->stress && i < N_S; i++) {
      double sum = 0.0;
      for (int j = 0; j < N_S; j++) sum += stiffness[i * N_S + j] * strain[j];
      answer->stress[p * N_S + i] = sum;
    }
#if N_S == 3
    if (answer->tangent_33) memcpy(answer->tangent_33 + p * N_S, stiffness_33, sizeof stiffness_33);
    if (answer->stress_33) {
      answer->stress_33[p] = 0.0;
      for (int j = 0; j < N_S; j++) answer->stress_33[p] += stiffness_33[j] * strain[j];
    }
#endif
#if HAS_ERROR
    const double work = form(stiffness, strain), gap = form(bound, strain);
    if (answer->error) answer->error[p] = sqrt(fmax(gap, 0.0) / fmax(work, DBL_MIN));
#else
    if (answer->error) answer->error[p] = NAN;
#endif
    if (!(fabs(form(stiffness, strain)) <= DBL_MAX)) answer->status[p] = FEMOPS_NOT_CONVERGED;
  }
}
