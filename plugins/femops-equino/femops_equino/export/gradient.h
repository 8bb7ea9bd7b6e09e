/* Gradient of the reduced energy W(z) = 1/2 z.Q z + sum over points of w g(|P z|), z = (E, a); see reduced.py. */

/* Gradient (PADDED_M, LANES) at z (PADDED_M, LANES) and, unless null, weighted deviatoric stresses
 * (n_groups * GROUP * N_D, LANES). */
static void OF(gradient)(const struct energy *energy, const double *restrict z, double *restrict gradient,
                         double *restrict force) {
  double own[GROUP * N_D * LANES];
  OF(fill)(PADDED_M, 0, gradient);
  OF(add_product)(PADDED_M, M, energy->quadratic, z, gradient);
  for (int group = 0; group < energy->n_groups; group++) {
    double *restrict d = force ? force + group * GROUP * N_D * LANES : own;
    OF(fill)(GROUP * N_D, 0, d);
    OF(add_product)(GROUP * N_D, M, energy->sample + group * M * GROUP * N_D, z, d);
    for (int k = 0; k < GROUP; k++) {
      const double *of_point = energy->points + (group * GROUP + k) * 3;
      double scale[LANES];
      FOR_LANES scale[p] = 0.0;
      for (int i = k * N_D; i < (k + 1) * N_D; i++)
        FOR_LANES scale[p] += d[i * LANES + p] * d[i * LANES + p];
      FOR_LANES scale[p] = of_point[0] * of_point[1] / (of_point[2] + sqrt(scale[p]));
      for (int i = k * N_D; i < (k + 1) * N_D; i++) FOR_LANES d[i * LANES + p] *= scale[p];
    }
    OF(add_product)(PADDED_M, GROUP * N_D, energy->spread + group * GROUP * N_D * PADDED_M, d, gradient);
  }
}
