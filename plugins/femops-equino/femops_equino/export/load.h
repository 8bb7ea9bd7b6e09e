/* Load the strains (count, N_S) of some points; the last one fills the lanes that are left over. */
static void OF(load)(int here, const int *points, const double *strain, double *restrict lanes) {
  for (int i = 0; i < N_S; i++)
    FOR_LANES lanes[i * LANES + p] = strain[points[p < here ? p : here - 1] * N_S + i];
}
