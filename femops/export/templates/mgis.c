/* @MARK@: the law as a "generic" behaviour of MFront, version 1 of its interface, for every host of
 * mgis::behaviour::load(hypothesis @HYPOTHESIS@, behaviour @NAME@). Needs neither MFront nor MGIS.
 *
 * Returns 1 if the response may be used, 0 if it is unreliable, -1 if there is none. It is unreliable where the
 * strain is outside the range of the training, unless the parameter out_of_range is 1, and where the error exceeds the
 * parameter tolerance; rdt then proposes half of the step. The internal state variables Error and OutOfRange say so
 * at every point. The error costs more than the response: with the parameter compute_error 0, and where the law has
 * none, Error is -1. As in MFront, parameters belong to the process: set them before threads start. */

#include "@NAME@.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#define DIM @DIM@

enum { N_S = DIM == 2 ? 3 : 6, N = DIM == 2 ? 4 : 6, MESSAGE = 512 };

/* Positions of MFront's components 11, 22, 33, sqrt(2) 12, sqrt(2) 13, sqrt(2) 23 among those of the law; in plane
 * strain there are four, and 33 comes last here. */
#if DIM == 2
static const int position[N] = {0, 1, 3, 2};
#else
static const int position[N] = {0, 1, 2, 5, 4, 3};
#endif

/* The structures of MGIS. */
struct initial_state {
  const double *gradients, *thermodynamic_forces, *mass_density, *material_properties, *internal_state_variables;
  const double *stored_energy, *dissipated_energy, *external_state_variables;
};

struct state {
  const double *gradients;
  double *thermodynamic_forces;
  const double *mass_density, *material_properties;
  double *internal_state_variables, *stored_energy, *dissipated_energy;
  const double *external_state_variables;
};

struct view {
  char *error_message; /* at least 512 characters, or null */
  double dt;
  double *K; /* on entry K[0] says what is wanted */
  double *rdt, *speed_of_sound;
  struct initial_state s0;
  struct state s1;
};

#define TEXT(name, text)                                     \
  extern @NAME@_API const char *const @NAME@_##name; \
  const char *const @NAME@_##name = text
#define COUNT(name, number)                                    \
  extern @NAME@_API const unsigned short @NAME@_##name; \
  const unsigned short @NAME@_##name = number
#define NAMES(name, ...)                                       \
  extern @NAME@_API const char *const @NAME@_##name[]; \
  const char *const @NAME@_##name[] = {__VA_ARGS__}
#define TYPES(name, ...)                               \
  extern @NAME@_API const int @NAME@_##name[]; \
  const int @NAME@_##name[] = {__VA_ARGS__}

TEXT(mfront_ept, "@NAME@");
TEXT(mfront_interface, "Generic");
TEXT(tfel_version, "4.2.0");
TEXT(unit_system, "");
TEXT(src, "femops");
TEXT(author, "");
TEXT(date, "");
TEXT(validator, "");
TEXT(build_id, "@MODEL@");
COUNT(mfront_mkt, 1);
COUNT(api_version, 1);
COUNT(BehaviourType, 1);      /* strain based */
COUNT(BehaviourKinematic, 1); /* small strain */
COUNT(SymmetryType, 0);       /* hosts do not rotate it: the axes are those of the RVE */
COUNT(ElasticSymmetryType, 0);
COUNT(nModellingHypotheses, 1);
NAMES(ModellingHypotheses, "@HYPOTHESIS@");
COUNT(nMainVariables, 1);
COUNT(nGradients, 1);
NAMES(Gradients, "Strain");
TYPES(GradientsTypes, 1);
COUNT(nThermodynamicForces, 1);
NAMES(ThermodynamicForces, "Stress");
TYPES(ThermodynamicForcesTypes, 1);
COUNT(nTangentOperatorBlocks, 2);
NAMES(TangentOperatorBlocks, "Stress", "Strain");
COUNT(nMaterialProperties, 0);
COUNT(nInternalStateVariables, 2);
NAMES(InternalStateVariables, "Error", "OutOfRange");
TYPES(InternalStateVariablesTypes, 0, 0);
COUNT(nExternalStateVariables, 0);
TYPES(ExternalStateVariablesTypes, 0);
COUNT(TemperatureRemovedFromExternalStateVariables, 1);
COUNT(nParameters, 3);
NAMES(Parameters, "out_of_range", "compute_error", "tolerance");
TYPES(ParametersTypes, 2, 2, 0); /* unsigned short, unsigned short, double */
COUNT(out_of_range_ParameterDefaultValue, 0);
COUNT(compute_error_ParameterDefaultValue, 1);
extern @NAME@_API const double @NAME@_tolerance_ParameterDefaultValue;
const double @NAME@_tolerance_ParameterDefaultValue = 0.0;
COUNT(nInitializeFunctions, 0);
COUNT(nPostProcessings, 0);
COUNT(requiresStiffnessTensor, 0);
COUNT(requiresThermalExpansionCoefficientTensor, 0);
COUNT(ComputesInternalEnergy, 0);
COUNT(ComputesDissipatedEnergy, 0);
COUNT(UsableInPurelyImplicitResolution, 1);
COUNT(savesTangentOperator, 0);

@NAME@_API int @NAME@_setParameter(const char *name, double value);
@NAME@_API int @NAME@_setUnsignedShortParameter(const char *name, unsigned short value);
@NAME@_API int @NAME@_setOutOfBoundsPolicy(int policy);
@NAME@_API int @NAME@_@HYPOTHESIS@(struct view *view);

static unsigned short extrapolates = 0;   /* the parameter out_of_range: 0 refuses, 1 extrapolates */
static unsigned short computes_error = 1; /* the parameter compute_error */
static double tolerance = 0.0;            /* of the error; 0: none */

/* Return 1 if there is such a parameter that takes the value. */
int @NAME@_setParameter(const char *name, double value) {
  if (strcmp(name, "tolerance") != 0 || !(value >= 0.0)) return 0;
  tolerance = value;
  return 1;
}

int @NAME@_setUnsignedShortParameter(const char *name, unsigned short value) {
  unsigned short *parameter = 0;
  if (strcmp(name, "out_of_range") == 0) parameter = &extrapolates;
  if (strcmp(name, "compute_error") == 0) parameter = &computes_error;
  if (!parameter || value > 1) return 0;
  *parameter = value;
  return 1;
}

int @NAME@_setOutOfBoundsPolicy(int policy) {
  (void)policy; /* of bounds that MFront files state for variables: there are none */
  return 1;
}

/* Propose half of the step, say why, and return a status. */
static int refused(struct view *view, int status, const char *why) {
  if (view->rdt && *view->rdt > 0.5) *view->rdt = 0.5;
  if (view->error_message) snprintf(view->error_message, MESSAGE, "@NAME@: %s", why);
  return status;
}

/* Write the tangent of the law, with 33 in plane strain: its column equals its row, and the entry 33, 33, which is
 * never used, is one that keeps the matrix regular. */
static void write_tangent(const double *tangent, const double *tangent_33, double *K) {
  for (int i = 0; i < N; i++)
    for (int j = 0; j < N; j++) {
      const int a = position[i], b = position[j];
      if (a < N_S && b < N_S)
        K[i * N + j] = tangent[a * N_S + b];
      else if (a < N_S || b < N_S)
        K[i * N + j] = tangent_33[a < N_S ? a : b];
      else
        K[i * N + j] = 0.5 * (tangent[0] + tangent[N_S + 1]);
    }
}

int @NAME@_@HYPOTHESIS@(struct view *view) {
  double wanted = view->K[0], strain[N_S], stress[N_S], tangent[N_S * N_S], tangent_33[N_S];
  double stress_33 = 0.0, error = NAN;
  const double with_sound = 50.0, offset = 100.0;
  int status;
  if (wanted > with_sound) {
    wanted -= offset;
    if (view->speed_of_sound) *view->speed_of_sound = 0.0; /* as MFront's, which do not define it */
  }
  const int predicts = wanted < -0.5, elastic = fabs(fabs(wanted) - 1.0) < 0.5;
  const double *gradients = predicts ? view->s0.gradients : view->s1.gradients;
  for (int i = 0; i < N; i++)
    if (position[i] < N_S)
      strain[position[i]] = gradients[i];
    else if (fabs(gradients[i]) > 1e-12)
      return refused(view, -1, "the strain 33 is not zero, but the law is of plane strain");
  if (elastic) {
    const double none[N_S] = {0.0};
    if (@NAME@_evaluate(1, none, 0, view->dt, 0, tangent, 0, tangent_33, 0, 0) < 0) return -1;
    write_tangent(tangent, tangent_33, view->K);
  }
  if (predicts && elastic) return 1;
  status = @NAME@_evaluate(1, strain, 0, view->dt, stress, tangent, &stress_33, tangent_33,
                           predicts || !computes_error ? 0 : &error, 0);
  if (tolerance > 0.0 && isnan(error) && !predicts)
    return refused(view, -1, "the tolerance needs an error: compute_error is 0, or the law has none");
  if (status == FEMOPS_NOT_CONVERGED) return refused(view, -1, "the corrections have not converged");
  if (!elastic && (wanted > 0.5 || predicts)) write_tangent(tangent, tangent_33, view->K);
  if (predicts) return 1;
  for (int i = 0; i < N; i++)
    view->s1.thermodynamic_forces[i] = position[i] < N_S ? stress[position[i]] : stress_33;
  view->s1.internal_state_variables[0] = isnan(error) ? -1.0 : error; /* hosts draw and average it */
  view->s1.internal_state_variables[1] = status == FEMOPS_OUT_OF_RANGE;
  if (status == FEMOPS_OUT_OF_RANGE && !extrapolates)
    return refused(view, 0, "the strain is outside the range of the training");
  if (tolerance > 0.0 && !(error <= tolerance)) return refused(view, 0, "the error exceeds the tolerance");
  return 1;
}
