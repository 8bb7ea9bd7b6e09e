/* Dense algebra over a block of points. Included once per block size: LANES points are the last axis of every array,
 * and OF(name) is the name for this size. */

/* Clang unrolls such short loops before it could vectorise them, which takes twice the time. */
#undef FOR_LANES
#if defined(__clang__) && LANES == 8
#pragma clang diagnostic ignored "-Wpass-failed" /* without the flags of the Makefile some loops stay scalar */
#define FOR_LANES _Pragma("clang loop unroll(disable) vectorize_width(8)") for (int p = 0; p < LANES; p++)
#else
#define FOR_LANES for (int p = 0; p < LANES; p++)
#endif

/* y += weight x with weight (columns, rows), x (columns, LANES), y (rows, LANES); rows is a multiple of 4. */
static inline void OF(add_product)(int rows, int columns, const double *restrict weight, const double *restrict x,
                                   double *restrict y) {
  for (int i = 0; i < rows; i += 4) {
    double *restrict y0 = y + i * LANES, *restrict y1 = y0 + LANES, *restrict y2 = y1 + LANES,
           *restrict y3 = y2 + LANES;
    double s0[LANES], s1[LANES], s2[LANES], s3[LANES];
    FOR_LANES { s0[p] = y0[p], s1[p] = y1[p], s2[p] = y2[p], s3[p] = y3[p]; }
    for (int j = 0; j < columns; j++) {
      const double *w = weight + j * rows + i, *value = x + j * LANES;
      FOR_LANES {
        s0[p] += w[0] * value[p];
        s1[p] += w[1] * value[p];
        s2[p] += w[2] * value[p];
        s3[p] += w[3] * value[p];
      }
    }
    FOR_LANES { y0[p] = s0[p], y1[p] = s1[p], y2[p] = s2[p], y3[p] = s3[p]; }
  }
}

/* y = bias, in every lane; no bias is zero. */
static inline void OF(fill)(int rows, const double *bias, double *y) {
  for (int i = 0; i < rows; i++) FOR_LANES y[i * LANES + p] = bias ? bias[i] : 0.0;
}
