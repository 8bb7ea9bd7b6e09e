/* Networks of two hidden swish layers with the inputs z = (x, rho_1 - delta, ...), x = E/scale and
 * rho_k^2 = x . G_k x + delta^2; their expansion at z = 0 is subtracted and a linear part added. See potential.py. */

/* Inputs z (n_in, LANES), d rho/dx (n_norms, N_S, LANES) and 1/rho (n_norms, LANES) of strains (N_S, LANES). */
static void OF(inputs)(const struct network *net, const double *strain, double *restrict z, double *restrict turn,
                       double *restrict inverse) {
  for (int i = 0; i < N_S; i++) FOR_LANES z[i * LANES + p] = strain[i * LANES + p] * net->inverse_scale[i];
  for (int k = 0; k < net->n_norms; k++) {
    double *restrict rho = z + (N_S + k) * LANES, *restrict slope = turn + k * N_S * LANES;
    FOR_LANES rho[p] = DELTA * DELTA;
    for (int i = 0; i < N_S; i++) {
      double sum[LANES];
      FOR_LANES sum[p] = 0.0;
      for (int j = 0; j < N_S; j++) {
        const double g = net->gram[(k * N_S + i) * N_S + j];
        FOR_LANES sum[p] += g * z[j * LANES + p];
      }
      FOR_LANES {
        slope[i * LANES + p] = sum[p];
        rho[p] += z[i * LANES + p] * sum[p];
      }
    }
    FOR_LANES {
      const double root = sqrt(rho[p]);
      inverse[k * LANES + p] = 1.0 / root;
      rho[p] = root - DELTA;
    }
    for (int i = 0; i < N_S; i++) FOR_LANES slope[i * LANES + p] *= inverse[k * LANES + p];
  }
}

/* What `values` leaves for `pull_back`. */
struct OF(trace) {
  double turn[N_NORMS * N_S * LANES], slope_1[WIDTH * LANES], slope_2[WIDTH * LANES];
};

/* Outputs of a coefficient network without its linear part, (n_out, LANES), at strains (N_S, LANES). */
static inline void OF(values)(const struct network *net, const double *strain, double *restrict out,
                              struct OF(trace) *trace) {
  double z[N_IN * LANES], inverse[N_NORMS * LANES];
  double sum[WIDTH * LANES], layer[WIDTH * LANES];
  const int n_in = N_S + net->n_norms;
  OF(inputs)(net, strain, z, trace->turn, inverse);
  OF(fill)(net->width, net->bias_1, sum);
  OF(add_product)(net->width, n_in, net->weight_1, z, sum);
  swish(net->width * LANES, sum, layer, trace->slope_1);
  OF(fill)(net->width, net->bias_2, sum);
  OF(add_product)(net->width, net->width, net->weight_2, layer, sum);
  swish(net->width * LANES, sum, layer, trace->slope_2);
  OF(fill)(net->n_out, net->value, out);
  OF(add_product)(net->n_out, net->width, net->weight_3, layer, out);
  OF(add_product)(net->n_out, n_in, net->slope, z, out);
  for (int m = 0; m < net->n_out; m++) FOR_LANES out[m * LANES + p] *= net->unit[m];
}

/* (d outputs/dE)^T given, without the linear part; given (n_out, LANES), pulled (N_S, LANES). */
static inline void OF(pull_back)(const struct network *net, const double *given, const struct OF(trace) *trace,
                                 double *restrict pulled) {
  double scaled[N_OUT * LANES], second[WIDTH * LANES], first[WIDTH * LANES], inputs[N_IN * LANES];
  for (int m = 0; m < net->n_out; m++) FOR_LANES scaled[m * LANES + p] = net->unit[m] * given[m * LANES + p];
  OF(fill)(net->width, 0, second);
  OF(add_product)(net->width, net->n_out, net->back_3, scaled, second);
  for (int i = 0; i < net->width * LANES; i++) second[i] *= trace->slope_2[i];
  OF(fill)(net->width, 0, first);
  OF(add_product)(net->width, net->width, net->back_2, second, first);
  for (int i = 0; i < net->width * LANES; i++) first[i] *= trace->slope_1[i];
  for (int i = 0; i < N_S + net->n_norms; i++) {
    double sum[LANES];
    FOR_LANES sum[p] = 0.0;
    for (int h = 0; h < net->width; h++) {
      const double w = net->weight_1[i * net->width + h];
      FOR_LANES sum[p] += w * first[h * LANES + p];
    }
    for (int m = 0; m < net->n_out; m++) {
      const double w = net->slope[i * net->n_out + m];
      FOR_LANES sum[p] += w * scaled[m * LANES + p];
    }
    FOR_LANES inputs[i * LANES + p] = sum[p];
  }
  for (int i = 0; i < N_S; i++) {
    FOR_LANES pulled[i * LANES + p] = inputs[i * LANES + p];
    for (int k = 0; k < net->n_norms; k++)
      FOR_LANES pulled[i * LANES + p] += trace->turn[(k * N_S + i) * LANES + p] * inputs[(N_S + k) * LANES + p];
    FOR_LANES pulled[i * LANES + p] *= net->inverse_scale[i];
  }
}
