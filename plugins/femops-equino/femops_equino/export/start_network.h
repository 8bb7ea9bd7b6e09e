/* First guess (PADDED_R, LANES) of the coefficients at strains (N_S, LANES). */
static void OF(start)(const double *strain, double *restrict a) {
  double inside[N_S * LANES];
  struct OF(trace) trace;
  OF(coefficients_near)(strain, inside, &trace, a);
}
