/* @MARK@: the law as a user material of Abaqus/Standard (UMAT), also read by CalculiX and Kratos.
 *
 * NTENS @NTENS@. Shears are engineering shears in Abaqus' order 12, 13, 23, or with -DSHEAR_12_23_13 in that of Kratos.
 * PROPS(1): 0 refuses strains outside the range of the training, 1 extrapolates. PROPS(2): tolerance of the error, 0
 * for none. PROPS(3): 1 does not compute the error, which costs more than the response. Those that are missing are 0.
 * STATEV(1) is the error, or -1 if it is not computed or the law has none; STATEV(2) the status in femops_law.h.
 *
 * Where there is no response, or a refused one, PNEWDT is half of the step; if the host gives no PNEWDT, stress and
 * tangent are not a number. Arguments that are not needed may be null. */

#include "@NAME@.h"

#include <math.h>
#include <stdio.h>

#define DIM @DIM@

enum { N_S = DIM == 2 ? 3 : 6, MOST = 6 };

static const double SQRT2 = 1.4142135623730951;

/* Positions of the host's components among those of the law. In plane strain 33 comes next, and then the shears out of
 * the plane, which a host has if it solves plane strain by solid elements, as CalculiX does. */
#if DIM == 2
static const int of_3[MOST] = {0, 1, 2};    /* 11, 22, 12 */
static const int of_4[MOST] = {0, 1, 3, 2}; /* 11, 22, 33, 12 */
#if defined(SHEAR_12_23_13)
static const int of_6[MOST] = {0, 1, 3, 2, 5, 4};
#else
static const int of_6[MOST] = {0, 1, 3, 2, 4, 5};
#endif
#elif defined(SHEAR_12_23_13)
static const int of_6[MOST] = {0, 1, 2, 5, 3, 4};
#else
static const int of_6[MOST] = {0, 1, 2, 5, 4, 3};
#endif

/* Return the positions for NTENS, or null. */
static const int *positions(int n) {
#if DIM == 2
  return n == 3 ? of_3 : n == 4 ? of_4 : n == 6 ? of_6 : 0;
#else
  return n == 6 ? of_6 : 0;
#endif
}

/* Factor of the law's component over the host's: sqrt(2) for shear stresses. */
static double scale(int position) { return position >= DIM && position < N_S ? SQRT2 : 1.0; }

/* Entry of DDSDDE at two positions. Those out of the plane, of which only the row and the column of 33 are known, have
 * no effect in plane strain; they keep the matrix regular. */
static double entry(int a, int b, const double *tangent, const double *tangent_33) {
  if (a < N_S && b < N_S) return tangent[a * N_S + b] / (scale(a) * scale(b));
  if (a == N_S && b < N_S) return tangent_33[b] / scale(b);
  if (b == N_S && a < N_S) return tangent_33[a] / scale(a);
  if (a != b) return 0.0;
  return a == N_S ? 0.5 * (tangent[0] + tangent[N_S + 1]) : 0.5 * tangent[N_S * N_S - 1];
}

/* Why a response is refused; null: it is not. */
static const char *refusal(int status, int extrapolates, double error, double tolerance) {
  if (status == FEMOPS_NOT_CONVERGED) return "the corrections have not converged";
  if (status == FEMOPS_OUT_OF_RANGE && !extrapolates) return "the strain is outside the range of the training";
  if (tolerance > 0.0 && !(error <= tolerance)) return "the error exceeds the tolerance";
  return 0;
}

/* Respond at a point. Return why it has no response or a refused one, or null, and whether the input is wrong. */
static const char *respond(double *stress, double *statev, double *ddsdde, const double *stran, const double *dstran,
                           const double *dtime, int n, int n_statev, const double *props, int n_props, int *wrong) {
  const int *at = positions(n), extrapolates = n_props > 0 && props[0] == 1.0;
  const double tolerance = n_props > 1 ? props[1] : 0.0;
  const int error_read = tolerance > 0.0 || n_statev > 0, without_error = n_props > 2 && props[2] == 1.0;
  double strain[N_S] = {0.0}, own[MOST] = {0.0}, tangent[N_S * N_S], tangent_33[N_S], error = NAN;
  int status;
  *wrong = 1;
  if (!at || !stran || !stress || !ddsdde) return "expected STRESS, DDSDDE, STRAN and NTENS @NTENS@";
  for (int i = 0; i < n; i++) {
    const double total = stran[i] + (dstran ? dstran[i] : 0.0);
    if (at[i] < N_S)
      strain[at[i]] = total / scale(at[i]); /* engineering shears are twice the tensor's */
    else if (fabs(total) > 1e-12)
      return "a strain out of the plane is not zero";
  }
  status = @NAME@_evaluate(1, strain, 0, dtime ? *dtime : 1.0, own, tangent, own + N_S, tangent_33,
                           error_read && !without_error ? &error : 0, 0);
  if (tolerance > 0.0 && isnan(error)) return "the tolerance needs an error: PROPS(3) is 1, or the law has none";
  *wrong = 0;
  for (int i = 0; i < n; i++) {
    stress[i] = own[at[i]] / scale(at[i]);
    for (int j = 0; j < n; j++) ddsdde[i + n * j] = entry(at[i], at[j], tangent, tangent_33); /* by columns */
  }
  if (n_statev > 0) statev[0] = isnan(error) ? -1.0 : error; /* hosts draw and average it */
  if (n_statev > 1) statev[1] = status;
  return refusal(status, extrapolates, error, tolerance);
}

/* Say why there is no response or a refused one where nothing else does, and make the host notice. A line is for wrong
 * input, and for hosts without PNEWDT; but these go on with what is not a number, which needs no line again. */
static void refuse(const char *why, int wrong, int n, double *stress, double *ddsdde, double *pnewdt, const int *noel,
                   const int *npt) {
  if (wrong || (!pnewdt && !isnan(stress[0])))
    fprintf(stderr, "@NAME@: element %d, point %d: %s\n", noel ? *noel : 0, npt ? *npt : 0, why);
  if (pnewdt) {
    if (!(*pnewdt > 0.0 && *pnewdt < 0.5)) *pnewdt = 0.5; /* CalculiX hands over -1 */
    return;
  }
  for (int i = 0; stress && i < n; i++) stress[i] = NAN;
  for (int i = 0; ddsdde && i < n * n; i++) ddsdde[i] = NAN;
}

/* The arguments of UMAT up to KINC; Fortran adds the length of CMNAME, which C ignores if it is missing. */
#define ARGUMENTS                                                                                                  \
  double *stress, double *statev, double *ddsdde, double *sse, double *spd, double *scd, double *rpl,              \
      double *ddsddt, double *drplde, double *drpldt, const double *stran, const double *dstran,                   \
      const double *time, const double *dtime, const double *temp, const double *dtemp, const double *predef,      \
      const double *dpred, const char *cmname, const int *ndi, const int *nshr, const int *ntens,                  \
      const int *nstatv, const double *props, const int *nprops, const double *coords, const double *drot,         \
      double *pnewdt, const double *celent, const double *dfgrd0, const double *dfgrd1, const int *noel,           \
      const int *npt, const int *layer, const int *kspt, const int *kstep, const int *kinc

#define ENTRY(name)                                                                                                \
  extern @NAME@_API void name(ARGUMENTS);                                                                          \
  void name(ARGUMENTS) {                                                                                           \
    (void)sse, (void)spd, (void)scd, (void)rpl, (void)ddsddt, (void)drplde, (void)drpldt, (void)time, (void)temp;  \
    (void)dtemp, (void)predef, (void)dpred, (void)cmname, (void)ndi, (void)nshr, (void)coords, (void)drot;         \
    (void)celent, (void)dfgrd0, (void)dfgrd1, (void)layer, (void)kspt, (void)kstep, (void)kinc;                    \
    const int n = ntens ? *ntens : 0, n_statev = statev && nstatv ? *nstatv : 0;                                   \
    int wrong;                                                                                                     \
    const char *why = respond(stress, statev, ddsdde, stran, dstran, dtime, n, n_statev, props,                    \
                              props && nprops ? *nprops : 0, &wrong);                                              \
    if (why) refuse(why, wrong, n, stress, ddsdde, pnewdt, noel, npt);                                             \
  }

ENTRY(umat_) /* the name that Fortran compilers give it on Linux */
ENTRY(umat)  /* and on Windows, and that CalculiX and Kratos look up */
