/* Stress at the network's coefficients with an adjoint correction; see adjoint.py. */

/* Coefficients, stress and estimated decrement of up to LANES points. */
static void OF(adjust)(int here, const int *points, const double *strain, struct chunk *chunk,
                       struct answer *answer) {
  double e[N_S * LANES], inside[N_S * LANES], a[PADDED_R * LANES], z[PADDED_M * LANES], g[PADDED_M * LANES];
  double residual[PADDED_R * LANES], scaled[PADDED_R * LANES], pulled[N_S * LANES], gap[LANES];
  struct OF(trace) trace;
  OF(load)(here, points, strain, e);
  OF(coefficients_near)(e, inside, &trace, a);
  OF(fill)(PADDED_M, 0, z);
  memcpy(z, e, sizeof e);
  memcpy(z + N_E * LANES, a, R * LANES * sizeof *a);
  OF(gradient)(&cubature, z, g, 0);
  OF(fill)(PADDED_R, 0, residual);
  memcpy(residual, g + N_E * LANES, R * LANES * sizeof *g);
  OF(pull_back)(&coefficients, residual, &trace, pulled);
  for (int i = 0; i < N_E; i++)
    for (int m = 0; m < R; m++)
      FOR_LANES g[i * LANES + p] += sensitivity[i * R + m] * residual[m * LANES + p];
  for (int i = 0; i < N_S; i++)
    FOR_LANES g[i * LANES + p] += e[i * LANES + p] == inside[i * LANES + p] ? pulled[i * LANES + p] : 0.0;
  OF(fill)(PADDED_R, 0, scaled);
  OF(add_product)(PADDED_R, R, inverse_factor, residual, scaled);
  FOR_LANES gap[p] = 0.0;
  for (int m = 0; m < R; m++) FOR_LANES gap[p] += scaled[m * LANES + p] * scaled[m * LANES + p];
  for (int q = 0; q < here; q++) {
    const int point = points[q];
    double work = 0.0;
    for (int i = 0; i < N_S; i++) {
      chunk->stress[point][i] = g[i * LANES + q];
      work += g[i * LANES + q] * e[i * LANES + q];
    }
    for (int m = 0; m < R; m++) chunk->a[point][m] = a[m * LANES + q];
    chunk->decrement[point] = gap[q] / (work > SMALLEST_WORK ? work : SMALLEST_WORK);
#if DIM == 2
    if (answer->stress_33) answer->stress_33[point] = g[N_S * LANES + q];
#endif
  }
  (void)answer;
}
