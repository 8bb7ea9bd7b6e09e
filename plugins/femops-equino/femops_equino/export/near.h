/* Coefficients from the network. */

/* Coefficients (PADDED_R, LANES) at strains (N_S, LANES): those of the network at the nearest strain of the training
 * range, which is written into inside, and linear from there. */
static void OF(coefficients_near)(const double *strain, double *restrict inside, struct OF(trace) *trace,
                                  double *restrict a) {
  for (int i = 0; i < N_S; i++)
    FOR_LANES {
      const double x = strain[i * LANES + p], above = x < low[i] ? low[i] : x;
      inside[i * LANES + p] = above > high[i] ? high[i] : above;
    }
  OF(fill)(PADDED_R, 0, a);
  OF(values)(&coefficients, inside, a, trace);
  OF(add_product)(PADDED_R, N_S, elastic, strain, a);
}
