/* Interface of the material laws that `femops export` writes.
 *
 * Symmetric tensors are vectors in Mandel notation: 11, 22, sqrt(2) 12 in plane strain and 11, 22, 33, sqrt(2) 23,
 * sqrt(2) 13, sqrt(2) 12 in 3D. Their number of components is n_s. Points are the leading axis of every array, and
 * arrays are contiguous. */
#ifndef FEMOPS_LAW_H
#define FEMOPS_LAW_H

#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

enum { FEMOPS_LAW_ABI = 1 };

/* Status of a point. */
enum {
  FEMOPS_FINE = 0,
  FEMOPS_OUT_OF_RANGE = 1, /* the strain is outside the range of the training; the response is an extrapolation */
  FEMOPS_NOT_CONVERGED = 2 /* the response must not be used */
};

/* What a law is. */
typedef struct femops_law_info {
  int abi;                 /* FEMOPS_LAW_ABI */
  int dim;                 /* 2 (plane strain) or 3 */
  int n_s;                 /* components of strain and stress: 3 or 6 */
  int n_state;             /* state variables per point */
  const double *low;       /* lower corner of the range of the training [-], (n_s); -inf: no limit */
  const double *high;      /* upper corner (n_s) */
  const char *name;        /* prefix of the functions */
  const char *law;         /* surrogate: "equino", ... */
  const char *corrections; /* how it is evaluated: "auto", "0", "1", ..., "adjoint"; empty: in the only way */
  const char *title;       /* of the study that trained it */
  const char *units;       /* note of the study on its units */
  const char *model;       /* SHA-256 of the model's manifest */
  const char *licence;     /* of the source, an SPDX expression */
} femops_law_info;

/* Evaluate a law at n points.
 *
 * Neither allocates memory nor has a state, so that threads may call it at the same time. Outputs that are not wanted
 * may be null. Uses some hundred kilobytes of the stack.
 *
 *   strain      total strain at the end of the increment [-], (n, n_s)
 *   state       state at the start of the increment, (n, n_state); null if n_state is 0
 *   dt          length of the increment [time], positive
 *   stress      stress [stress], (n, n_s)
 *   tangent     consistent tangent d stress/d strain [stress], (n, n_s, n_s)
 *   stress_33   in plane strain, stress normal to the plane [stress], (n); not written in 3D
 *   tangent_33  in plane strain, d stress_33/d strain [stress], (n, n_s); not written in 3D
 *   error       relative error of the stress [-], (n): an indicator or a bound, infinite if unknown; NaN if the law
 *               has none. It costs more than the response of most laws.
 *   status      status of the points, (n)
 *
 * Returns the largest status, or -1 if strain is null. */
typedef int femops_law_evaluate(size_t n, const double *strain, const double *state, double dt, double *stress,
                                double *tangent, double *stress_33, double *tangent_33, double *error, int *status);

#ifdef __cplusplus
}
#endif

#endif
