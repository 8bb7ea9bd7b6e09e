/* First guess (PADDED_R, LANES) of the coefficients at strains (N_S, LANES): linear elasticity. */
static void OF(start)(const double *strain, double *restrict a) {
  OF(fill)(PADDED_R, 0, a);
  OF(add_product)(PADDED_R, N_S, elastic, strain, a);
}
