/* Unknowns of the points of a chunk, and the indicator of their errors. */

/* Load z (PADDED_M, LANES) of some points. */
static void OF(load_unknowns)(int here, const int *points, const double *strain, const struct chunk *chunk,
                              double *restrict z) {
  OF(fill)(PADDED_M, 0, z);
  OF(load)(here, points, strain, z);
  for (int i = 0; i < R; i++)
    FOR_LANES z[(N_E + i) * LANES + p] = chunk->a[points[p < here ? p : here - 1]][i];
}

/* Indicators of up to LANES points. */
static void OF(indicate)(int here, const int *points, const double *strain, struct chunk *chunk,
                         struct answer *answer) {
  double z[PADDED_M * LANES], stress[N_S * LANES], error[LANES];
  OF(load_unknowns)(here, points, strain, chunk, z);
  for (int i = 0; i < N_S; i++) FOR_LANES stress[i * LANES + p] = chunk->stress[points[p < here ? p : here - 1]][i];
  OF(relative_error)(z, stress, error);
  for (int q = 0; q < here; q++) answer->error[points[q]] = error[q];
}
