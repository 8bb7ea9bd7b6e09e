/* Newton's method on the reduced energy. Symmetric matrices are stored as their lower triangles, row by row. */

/* Sample a group of cubature points at z: v = P.P z (GROUP, PADDED_M, LANES), secant w h (GROUP, LANES) and
 * scaled w h'/n v (M, GROUP, LANES), with the secant modulus h of n = |P z|. */
static void OF(sample)(int group, const double *restrict z, double *restrict v, double *restrict secant,
                       double *restrict scaled) {
  double d[GROUP * N_D * LANES];
  OF(fill)(GROUP * N_D, 0, d);
  OF(add_product)(GROUP * N_D, M, cubature.sample + group * M * GROUP * N_D, z, d);
  OF(fill)(GROUP * PADDED_M, 0, v);
  for (int k = 0; k < GROUP; k++) {
    const double *point = cubature.points + (group * GROUP + k) * 3; /* weight, alpha1, alpha2 */
    double scale[LANES];
    double *restrict here = v + k * PADDED_M * LANES;
    FOR_LANES scale[p] = 1e-30; /* keeps the norm away from zero, where h'/n times the dyad vanishes */
    for (int i = k * N_D; i < (k + 1) * N_D; i++)
      FOR_LANES scale[p] += d[i * LANES + p] * d[i * LANES + p];
    FOR_LANES {
      const double norm = sqrt(scale[p]), modulus = point[1] / (point[2] + norm);
      secant[k * LANES + p] = point[0] * modulus;
      scale[p] = -point[0] * modulus * modulus / (point[1] * norm);
    }
    OF(add_product)(PADDED_M, N_D, cubature.spread + (group * GROUP + k) * N_D * PADDED_M, d + k * N_D * LANES, here);
    for (int i = 0; i < M; i++)
      FOR_LANES scaled[(i * GROUP + k) * LANES + p] = scale[p] * here[i * LANES + p];
  }
}

/* Gradient (PADDED_M, LANES) and Hessian (PAIRS, LANES) of the cubature's energy at z (PADDED_M, LANES). */
static void OF(derivatives)(const double *restrict z, double *restrict gradient, double *restrict hessian) {
  double v[GROUP * PADDED_M * LANES], scaled[GROUP * M * LANES], secant[GROUP * LANES];
  OF(fill)(PADDED_M, 0, gradient);
  OF(add_product)(PADDED_M, M, cubature.quadratic, z, gradient);
  for (int i = 0; i < M; i++)
    for (int j = 0; j <= i; j++)
      FOR_LANES hessian[AT(i, j) * LANES + p] = cubature.quadratic[i * PADDED_M + j];
  for (int group = 0; group < cubature.n_groups; group++) {
    OF(sample)(group, z, v, secant, scaled);
    for (int k = 0; k < GROUP; k++)
      for (int i = 0; i < M; i++)
        FOR_LANES gradient[i * LANES + p] += secant[k * LANES + p] * v[(k * PADDED_M + i) * LANES + p];
    for (int i = 0; i < M; i++) {
      const double *row = squares + group * GROUP * PAIRS + AT(i, 0), *s = scaled + i * GROUP * LANES;
      double *restrict h = hessian + AT(i, 0) * LANES;
      for (int j = 0; j <= i; j++) {
        const double p0 = row[j], p1 = row[j + PAIRS], p2 = row[j + 2 * PAIRS], p3 = row[j + 3 * PAIRS];
        const double *vj = v + j * LANES;
        FOR_LANES
          h[j * LANES + p] += (secant[p] * p0 + s[p] * vj[p]) +
                              (secant[LANES + p] * p1 + s[LANES + p] * vj[PADDED_M * LANES + p]) +
                              (secant[2 * LANES + p] * p2 + s[2 * LANES + p] * vj[2 * PADDED_M * LANES + p]) +
                              (secant[3 * LANES + p] * p3 + s[3 * LANES + p] * vj[3 * PADDED_M * LANES + p]);
      }
    }
  }
}

/* Eliminate a from the Hessian, from the last row up: the first N_E rows become the condensed tangent, the others the
 * factors that `substitute` needs. */
static void OF(eliminate)(double *restrict hessian) {
  for (int k = M - 1; k >= N_E; k--) {
    const double *last = hessian + AT(k, 0) * LANES;
    double *pivot = hessian + AT(k, k) * LANES;
    FOR_LANES pivot[p] = 1.0 / pivot[p];
    for (int i = 0; i < k; i++) {
      double *restrict row = hessian + AT(i, 0) * LANES;
      double factor[LANES];
      FOR_LANES factor[p] = last[i * LANES + p] * pivot[p];
      for (int j = 0; j <= i; j++) FOR_LANES row[j * LANES + p] -= factor[p] * last[j * LANES + p];
    }
  }
}

/* With an eliminated Hessian, turn a gradient g (M, LANES) into g_E - H_Ea K^-1 g_a and K^-1 g_a, K = H_aa, and return
 * g_a . K^-1 g_a (LANES). */
static void OF(substitute)(const double *restrict hessian, double *restrict g, double *restrict decrement) {
  FOR_LANES decrement[p] = 0.0;
  for (int k = M - 1; k >= N_E; k--) {
    const double *row = hessian + AT(k, 0) * LANES;
    double scaled[LANES];
    FOR_LANES {
      scaled[p] = g[k * LANES + p] * row[k * LANES + p];
      decrement[p] += g[k * LANES + p] * scaled[p];
    }
    for (int i = 0; i < k; i++) FOR_LANES g[i * LANES + p] -= row[i * LANES + p] * scaled[p];
  }
  for (int k = N_E; k < M; k++) {
    const double *row = hessian + AT(k, 0) * LANES;
    for (int i = N_E; i < k; i++) FOR_LANES g[k * LANES + p] -= row[i * LANES + p] * g[i * LANES + p];
    FOR_LANES g[k * LANES + p] *= row[k * LANES + p];
  }
}
