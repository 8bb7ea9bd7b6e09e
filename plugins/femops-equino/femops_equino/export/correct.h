/* Newton corrections of a block of the points of a chunk. */

/* First guesses of up to LANES points. */
static void OF(guess)(int here, const int *points, const double *strain, struct chunk *chunk, struct answer *answer) {
  double lanes[N_S * LANES], a[PADDED_R * LANES];
  (void)answer;
  OF(load)(here, points, strain, lanes);
  OF(start)(lanes, a);
  for (int q = 0; q < here; q++)
    for (int i = 0; i < R; i++) chunk->a[points[q]][i] = a[i * LANES + q];
}

/* One Newton correction of up to LANES points. */
static void OF(correct)(int here, const int *points, const double *strain, struct chunk *chunk,
                        struct answer *answer) {
  double z[PADDED_M * LANES], g[PADDED_M * LANES], hessian[PAIRS * LANES], gap[LANES];
  OF(load_unknowns)(here, points, strain, chunk, z);
  OF(derivatives)(z, g, hessian);
  OF(eliminate)(hessian);
  OF(substitute)(hessian, g, gap);
  for (int q = 0; q < here; q++) {
    const int point = points[q];
    double work = 0.0;
    for (int i = 0; i < N_S; i++) {
      chunk->stress[point][i] = g[i * LANES + q];
      work += g[i * LANES + q] * z[i * LANES + q];
    }
    for (int i = 0; i < R; i++) chunk->a[point][i] -= g[(N_E + i) * LANES + q];
    chunk->decrement[point] = gap[q] / (work > 1e-30 ? work : 1e-30);
    for (int i = 0; answer->tangent && i < N_S; i++)
      for (int j = 0; j < N_S; j++)
        answer->tangent[(point * N_S + i) * N_S + j] = hessian[(i > j ? AT(i, j) : AT(j, i)) * LANES + q];
#if DIM == 2
    if (answer->stress_33) answer->stress_33[point] = g[N_S * LANES + q];
    for (int j = 0; answer->tangent_33 && j < N_S; j++)
      answer->tangent_33[point * N_S + j] = hessian[AT(N_S, j) * LANES + q];
#endif
  }
}
