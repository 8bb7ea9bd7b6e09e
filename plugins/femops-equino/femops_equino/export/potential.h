/* Stress and tangent as derivatives of the potential network. */

/* Derivatives of the network in x: gradient s (N_S, LANES) and the lower triangle of the Hessian c, at inputs z with
 * d rho/dx (turn) and 1/rho (inverse). */
static void OF(expand)(const double *z, const double *turn, const double *inverse, double *restrict s,
                       double *restrict c) {
  double sum[WIDTH * LANES], layer[WIDTH * LANES], slope[WIDTH * LANES], curvature[WIDTH * LANES];
  double slope_2[WIDTH * LANES], curvature_2[WIDTH * LANES], pulled[WIDTH * LANES], radial[N_NORMS * LANES];
  double towards[N_S * WIDTH * LANES], out[N_S * WIDTH * LANES];
  const int width = potential.width, n_norms = potential.n_norms, size = width * LANES;
  OF(fill)(width, potential.bias_1, sum);
  OF(add_product)(width, N_S + n_norms, potential.weight_1, z, sum);
  curved_swish(size, sum, layer, slope, curvature);
  OF(fill)(width, potential.bias_2, sum);
  OF(add_product)(width, width, potential.weight_2, layer, sum);
  for (int i = 0; i < N_S; i++) {
    double *restrict along = towards + i * size;
    for (int h = 0; h < width; h++) {
      FOR_LANES along[h * LANES + p] = potential.weight_1[i * width + h];
      for (int k = 0; k < n_norms; k++) {
        const double w = potential.weight_1[(N_S + k) * width + h];
        FOR_LANES along[h * LANES + p] += w * turn[(k * N_S + i) * LANES + p];
      }
    }
    for (int h = 0; h < size; h++) layer[h] = slope[h] * along[h];
    OF(fill)(width, 0, out + i * size);
    OF(add_product)(width, width, potential.weight_2, layer, out + i * size);
  }
  curved_swish(size, sum, layer, slope_2, curvature_2);
  for (int h = 0; h < width; h++)
    FOR_LANES {
      slope_2[h * LANES + p] *= potential.weight_3[h];
      curvature_2[h * LANES + p] *= potential.weight_3[h];
    }
  OF(fill)(width, 0, pulled);
  OF(add_product)(width, width, potential.back_2, slope_2, pulled);
  for (int h = 0; h < size; h++) slope[h] *= pulled[h], curvature[h] *= pulled[h];
  for (int k = 0; k < n_norms; k++) {
    FOR_LANES radial[k * LANES + p] = 0.0;
    for (int h = 0; h < width; h++)
      FOR_LANES radial[k * LANES + p] += potential.weight_1[(N_S + k) * width + h] * slope[h * LANES + p];
  }
  for (int i = 0; i < N_S; i++) {
    const double *u = towards + i * size, *v = out + i * size;
    FOR_LANES s[i * LANES + p] = 0.0;
    for (int h = 0; h < width; h++) FOR_LANES s[i * LANES + p] += slope[h * LANES + p] * u[h * LANES + p];
    for (int j = 0; j <= i; j++) {
      const double *uj = towards + j * size, *vj = out + j * size;
      double total[LANES];
      FOR_LANES total[p] = 0.0;
      for (int h = 0; h < width; h++)
        FOR_LANES total[p] += curvature[h * LANES + p] * u[h * LANES + p] * uj[h * LANES + p] +
                              curvature_2[h * LANES + p] * v[h * LANES + p] * vj[h * LANES + p];
      FOR_LANES c[AT(i, j) * LANES + p] = total[p];
    }
  }
  for (int k = 0; k < n_norms; k++) {
    const double *of_k = potential.curvature + (N_S + k) * (N_S + n_norms);
    FOR_LANES radial[k * LANES + p] += potential.slope[N_S + k];
    for (int j = 0; j < N_S + n_norms; j++) FOR_LANES radial[k * LANES + p] += of_k[j] * z[j * LANES + p];
  }
  for (int i = 0; i < N_S; i++) {
    const double *of_i = potential.curvature + i * (N_S + n_norms);
    FOR_LANES s[i * LANES + p] += potential.slope[i];
    for (int j = 0; j < N_S + n_norms; j++) FOR_LANES s[i * LANES + p] += of_i[j] * z[j * LANES + p];
    for (int k = 0; k < n_norms; k++) {
      const double *of_k = potential.curvature + (N_S + k) * (N_S + n_norms);
      const double *ti = turn + (k * N_S + i) * LANES;
      FOR_LANES s[i * LANES + p] += potential.slope[N_S + k] * ti[p];
      for (int j = 0; j < N_S + n_norms; j++) FOR_LANES s[i * LANES + p] += of_k[j] * z[j * LANES + p] * ti[p];
    }
    for (int j = 0; j <= i; j++) {
      double *restrict cij = c + AT(i, j) * LANES;
      FOR_LANES cij[p] += of_i[j];
      for (int k = 0; k < n_norms; k++) {
        const double *of_k = potential.curvature + (N_S + k) * (N_S + n_norms);
        const double *ti = turn + (k * N_S + i) * LANES, *tj = turn + (k * N_S + j) * LANES;
        const double g = potential.gram[(k * N_S + i) * N_S + j];
        FOR_LANES cij[p] += of_k[j] * ti[p] + of_i[N_S + k] * tj[p] +
                            radial[k * LANES + p] * inverse[k * LANES + p] * (g - ti[p] * tj[p]);
        for (int m = 0; m < n_norms; m++)
          FOR_LANES cij[p] += of_k[N_S + m] * ti[p] * turn[(m * N_S + j) * LANES + p];
      }
    }
  }
}

/* Response of the networks at up to LANES points. */
static void OF(respond)(int here, const int *points, const double *strain, struct chunk *chunk,
                        struct answer *answer) {
  double e[N_S * LANES], z[N_IN * LANES], turn[N_NORMS * N_S * LANES], inverse[N_NORMS * LANES];
  double s[N_S * LANES], c[N_S * (N_S + 1) / 2 * LANES];
  (void)chunk;
  OF(load)(here, points, strain, e);
  OF(inputs)(&potential, e, z, turn, inverse);
  OF(expand)(z, turn, inverse, s, c);
  const double *scale = potential.inverse_scale, unit = potential.unit[0];
  for (int q = 0; q < here; q++)
    for (int i = 0; i < N_S; i++) {
      double linear = 0.0;
      for (int j = 0; j < N_S; j++) linear += potential.linear[i * N_S + j] * e[j * LANES + q];
      if (answer->stress) answer->stress[points[q] * N_S + i] = linear + unit * scale[i] * s[i * LANES + q];
      for (int j = 0; answer->tangent && j < N_S; j++)
        answer->tangent[(points[q] * N_S + i) * N_S + j] =
            potential.linear[i * N_S + j] + unit * scale[i] * scale[j] * c[(i > j ? AT(i, j) : AT(j, i)) * LANES + q];
    }
#if DIM == 2
  double out[N_OUT * LANES], one[N_OUT * LANES];
  struct OF(trace) trace;
  if (!answer->stress_33 && !answer->tangent_33) return;
  OF(values)(&normal, e, out, &trace);
  OF(fill)(normal.n_out, 0, one);
  FOR_LANES one[p] = 1.0;
  OF(pull_back)(&normal, one, &trace, s);
  for (int q = 0; q < here; q++) {
    double linear = 0.0;
    for (int j = 0; j < N_S; j++) linear += normal.linear[j] * e[j * LANES + q];
    if (answer->stress_33) answer->stress_33[points[q]] = linear + out[q];
    for (int j = 0; answer->tangent_33 && j < N_S; j++)
      answer->tangent_33[points[q] * N_S + j] = normal.linear[j] + s[j * LANES + q];
  }
#endif
}
