/* Stress and tangent as derivatives of the potential network. */

/* What the hidden units of a block contribute: dN/dx and d2N/dx2 are sums over units of
 *   first u_i   and   second u_i u_j + out v_i v_j. */
struct OF(units) {
  double first[WIDTH * LANES], second[WIDTH * LANES], out[WIDTH * LANES];
  double u[N_S * WIDTH * LANES], v[N_S * WIDTH * LANES];
};

/* Derivatives u_i of the arguments of the first layer in x_i, (N_S, width, LANES). */
static void OF(first_arguments)(const double *turn, double *restrict u) {
  const int width = potential.width;
  for (int i = 0; i < N_S; i++)
    for (int h = 0; h < width; h++) {
      double *restrict along = u + (i * width + h) * LANES;
      FOR_LANES along[p] = potential.weight_1[i * width + h];
      for (int k = 0; k < potential.n_norms; k++) {
        const double w = potential.weight_1[(N_S + k) * width + h];
        FOR_LANES along[p] += w * turn[(k * N_S + i) * LANES + p];
      }
    }
}

/* Evaluate the hidden layers at inputs z. */
static void OF(layers)(const double *z, const double *turn, struct OF(units) *units) {
  double sum[WIDTH * LANES], layer[WIDTH * LANES], slope[WIDTH * LANES], pulled[WIDTH * LANES];
  const int width = potential.width, size = width * LANES;
  OF(fill)(width, potential.bias_1, sum);
  OF(add_product)(width, N_S + potential.n_norms, potential.weight_1, z, sum);
  curved_swish(size, sum, layer, units->first, units->second);
  OF(fill)(width, potential.bias_2, sum);
  OF(add_product)(width, width, potential.weight_2, layer, sum);
  OF(first_arguments)(turn, units->u);
  for (int i = 0; i < N_S; i++) {
    for (int h = 0; h < size; h++) layer[h] = units->first[h] * units->u[i * size + h];
    OF(fill)(width, 0, units->v + i * size);
    OF(add_product)(width, width, potential.weight_2, layer, units->v + i * size);
  }
  curved_swish(size, sum, layer, slope, units->out);
  for (int h = 0; h < width; h++)
    FOR_LANES {
      slope[h * LANES + p] *= potential.weight_3[h];
      units->out[h * LANES + p] *= potential.weight_3[h];
    }
  OF(fill)(width, 0, pulled);
  OF(add_product)(width, width, potential.back_2, slope, pulled);
  for (int h = 0; h < size; h++) units->first[h] *= pulled[h], units->second[h] *= pulled[h];
}

/* Sum over units: dN/dx (N_S, LANES), the lower triangle of d2N/dx2 at fixed d rho/dx, and dN/drho (n_norms, LANES). */
static void OF(sum_units)(const struct OF(units) *units, double *restrict s, double *restrict c,
                          double *restrict radial) {
  const int width = potential.width, size = width * LANES;
  OF(fill)(N_S, 0, s);
  OF(fill)(N_S * (N_S + 1) / 2, 0, c);
  OF(fill)(potential.n_norms, 0, radial);
  for (int i = 0; i < N_S; i++) {
    const double *ui = units->u + i * size, *vi = units->v + i * size;
    for (int h = 0; h < size; h += LANES) FOR_LANES s[i * LANES + p] += units->first[h + p] * ui[h + p];
    for (int j = 0; j <= i; j++) {
      const double *uj = units->u + j * size, *vj = units->v + j * size;
      double total[LANES];
      FOR_LANES total[p] = 0.0;
      for (int h = 0; h < size; h += LANES)
        FOR_LANES total[p] += units->second[h + p] * ui[h + p] * uj[h + p] + units->out[h + p] * vi[h + p] * vj[h + p];
      FOR_LANES c[AT(i, j) * LANES + p] = total[p];
    }
  }
  for (int k = 0; k < potential.n_norms; k++)
    for (int h = 0; h < width; h++)
      FOR_LANES radial[k * LANES + p] += potential.weight_1[(N_S + k) * width + h] * units->first[h * LANES + p];
}

/* Add to all three the expansion at z = 0, whose tables have a negative sign. */
static void OF(take_off)(const double *z, const double *turn, double *restrict s, double *restrict c,
                         double *restrict radial) {
  const int n_norms = potential.n_norms, n_in = N_S + n_norms;
  double slope[N_IN * LANES];
  for (int i = 0; i < n_in; i++) {
    FOR_LANES slope[i * LANES + p] = potential.slope[i];
    for (int j = 0; j < n_in; j++) {
      const double curvature = potential.curvature[i * n_in + j];
      FOR_LANES slope[i * LANES + p] += curvature * z[j * LANES + p];
    }
  }
  for (int k = 0; k < n_norms * LANES; k++) radial[k] += slope[N_S * LANES + k];
  for (int i = 0; i < N_S; i++) {
    const double *of_i = potential.curvature + i * n_in;
    FOR_LANES s[i * LANES + p] += slope[i * LANES + p];
    for (int k = 0; k < n_norms; k++)
      FOR_LANES s[i * LANES + p] += slope[(N_S + k) * LANES + p] * turn[(k * N_S + i) * LANES + p];
    for (int j = 0; j <= i; j++) {
      double *restrict cij = c + AT(i, j) * LANES;
      FOR_LANES cij[p] += of_i[j];
      for (int k = 0; k < n_norms; k++) {
        const double *of_k = potential.curvature + (N_S + k) * n_in;
        const double *ti = turn + (k * N_S + i) * LANES, *tj = turn + (k * N_S + j) * LANES;
        FOR_LANES cij[p] += of_k[j] * ti[p] + of_i[N_S + k] * tj[p];
        for (int m = 0; m < n_norms; m++)
          FOR_LANES cij[p] += of_k[N_S + m] * ti[p] * turn[(m * N_S + j) * LANES + p];
      }
    }
  }
}

/* Gradient s (N_S, LANES) and lower triangle c of the Hessian of the network without its expansion, at strains. */
static void OF(expand)(const double *strain, double *restrict s, double *restrict c) {
  double z[N_IN * LANES], turn[N_NORMS * N_S * LANES], inverse[N_NORMS * LANES], radial[N_NORMS * LANES];
  struct OF(units) units;
  OF(inputs)(&potential, strain, z, turn, inverse);
  OF(layers)(z, turn, &units);
  OF(sum_units)(&units, s, c, radial);
  OF(take_off)(z, turn, s, c, radial);
  for (int k = 0; k < potential.n_norms; k++) /* dN/drho d2rho/dx2 */
    for (int i = 0; i < N_S; i++)
      for (int j = 0; j <= i; j++) {
        const double *ti = turn + (k * N_S + i) * LANES, *tj = turn + (k * N_S + j) * LANES;
        const double g = potential.gram[(k * N_S + i) * N_S + j];
        FOR_LANES c[AT(i, j) * LANES + p] +=
            radial[k * LANES + p] * inverse[k * LANES + p] * (g - ti[p] * tj[p]);
      }
}

/* Stress normal to the plane and its row of the tangent at strains (N_S, LANES). */
static inline void OF(respond_33)(int here, const int *points, const double *strain, struct answer *answer) {
#if DIM == 2
  double out[N_OUT * LANES], one[N_OUT * LANES], row[N_S * LANES];
  struct OF(trace) trace;
  OF(values)(&normal, strain, out, &trace);
  OF(fill)(normal.n_out, 0, one);
  FOR_LANES one[p] = 1.0;
  OF(pull_back)(&normal, one, &trace, row);
  for (int q = 0; q < here; q++) {
    double linear = 0.0;
    for (int j = 0; j < N_S; j++) linear += normal.linear[j] * strain[j * LANES + q];
    if (answer->stress_33) answer->stress_33[points[q]] = linear + out[q];
    for (int j = 0; answer->tangent_33 && j < N_S; j++)
      answer->tangent_33[points[q] * N_S + j] = normal.linear[j] + row[j * LANES + q];
  }
#else
  (void)here, (void)points, (void)strain, (void)answer;
#endif
}

/* Response of the networks at up to LANES points. */
static void OF(respond)(int here, const int *points, const double *strain, struct chunk *chunk,
                        struct answer *answer) {
  double e[N_S * LANES], s[N_S * LANES], c[N_S * (N_S + 1) / 2 * LANES];
  const double *scale = potential.inverse_scale, unit = potential.unit[0];
  (void)chunk;
  OF(load)(here, points, strain, e);
  OF(expand)(e, s, c);
  for (int q = 0; q < here; q++)
    for (int i = 0; i < N_S; i++) {
      double linear = 0.0;
      for (int j = 0; j < N_S; j++) linear += potential.linear[i * N_S + j] * e[j * LANES + q];
      if (answer->stress) answer->stress[points[q] * N_S + i] = linear + unit * scale[i] * s[i * LANES + q];
      for (int j = 0; answer->tangent && j < N_S; j++)
        answer->tangent[(points[q] * N_S + i) * N_S + j] =
            potential.linear[i * N_S + j] + unit * scale[i] * scale[j] * c[(i > j ? AT(i, j) : AT(j, i)) * LANES + q];
    }
  if (answer->stress_33 || answer->tangent_33) OF(respond_33)(here, points, e, answer);
}
