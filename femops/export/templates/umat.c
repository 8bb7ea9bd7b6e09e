/* @MARK@: the law as a user material of Abaqus/Standard (UMAT), also read by CalculiX and Kratos.
 *
 * NTENS @NTENS@. Shears are engineering shears in Abaqus' order 12, 13, 23, or with -DSHEAR_12_23_13 in that of Kratos.
 * PROPS(1): 0 refuses strains outside the range of the training, 1 extrapolates. PROPS(2): tolerance of
 * the error, 0 for none. Without PROPS: 0, 0. STATEV(1) is the error, STATEV(2) is 1 outside the range.
 *
 * Where there is no response, or a refused one, a message says so, PNEWDT is half of the step, and if the host gives
 * no PNEWDT, stress and tangent are not a number. Arguments that are not needed may be null. */

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

/* Report a failure. */
static void refuse(const char *why, int n, double *stress, double *ddsdde, double *pnewdt, const int *noel,
                   const int *npt) {
  fprintf(stderr, "@NAME@: element %d, point %d: %s\n", noel ? *noel : 0, npt ? *npt : 0, why);
  if (pnewdt) {
    if (*pnewdt > 0.5) *pnewdt = 0.5;
    return;
  }
  for (int i = 0; stress && i < n; i++) stress[i] = NAN;
  for (int i = 0; ddsdde && i < n * n; i++) ddsdde[i] = NAN;
}

static void respond(double *stress, double *statev, double *ddsdde, const double *stran, const double *dstran,
                    const double *dtime, const int *ntens, const int *nstatv, const double *props, const int *nprops,
                    double *pnewdt, const int *noel, const int *npt) {
  const int n = ntens ? *ntens : 0, n_props = props && nprops ? *nprops : 0, *at = positions(n);
  const int extrapolates = n_props > 0 && props[0] == 1.0;
  const double tolerance = n_props > 1 ? props[1] : 0.0;
  double strain[N_S] = {0.0}, own[MOST] = {0.0}, tangent[N_S * N_S], tangent_33[N_S], error = 0.0;
  int status;
  if (!at || !stran || !stress || !ddsdde) {
    refuse("expected STRESS, DDSDDE, STRAN and NTENS @NTENS@", n, stress, ddsdde, pnewdt, noel, npt);
    return;
  }
  for (int i = 0; i < n; i++) {
    const double total = stran[i] + (dstran ? dstran[i] : 0.0);
    if (at[i] < N_S)
      strain[at[i]] = total / scale(at[i]); /* engineering shears are twice the tensor's */
    else if (fabs(total) > 1e-12) {
      refuse("a strain out of the plane is not zero", n, stress, ddsdde, pnewdt, noel, npt);
      return;
    }
  }
  status = @NAME@_evaluate(1, strain, 0, dtime ? *dtime : 1.0, own, tangent, own + N_S, tangent_33, &error, 0);
  for (int i = 0; i < n; i++) {
    stress[i] = own[at[i]] / scale(at[i]);
    for (int j = 0; j < n; j++) ddsdde[i + n * j] = entry(at[i], at[j], tangent, tangent_33); /* by columns */
  }
  if (statev && nstatv && *nstatv > 0) statev[0] = error;
  if (statev && nstatv && *nstatv > 1) statev[1] = status == FEMOPS_OUT_OF_RANGE;
  if (status == FEMOPS_NOT_CONVERGED)
    refuse("the corrections have not converged", n, stress, ddsdde, pnewdt, noel, npt);
  else if (status == FEMOPS_OUT_OF_RANGE && !extrapolates)
    refuse("the strain is outside the range of the training", n, stress, ddsdde, pnewdt, noel, npt);
  else if (tolerance > 0.0 && !(error <= tolerance))
    refuse("the error exceeds the tolerance", n, stress, ddsdde, pnewdt, noel, npt);
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
    respond(stress, statev, ddsdde, stran, dstran, dtime, ntens, nstatv, props, nprops, pnewdt, noel, npt);        \
  }

ENTRY(umat_) /* the name that Fortran compilers give it on Linux */
ENTRY(umat)  /* and on Windows, and that CalculiX and Kratos look up */
