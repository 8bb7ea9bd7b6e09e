/* Position of an entry in a symmetric matrix that is stored as its lower triangle, row by row. */
#define AT(i, j) ((i) * ((i) + 1) / 2 + (j))

/* A chunk of points, worked through in blocks. */

enum { CHUNK = 64 };

/* List all points of a chunk. */
static void list_all(int *points) {
  for (int i = 0; i < CHUNK; i++) points[i] = i;
}

/* What is kept of every point: coefficients, stress [stress], relative Newton decrement. */
struct chunk {
  double a[CHUNK][R], stress[CHUNK][N_S], decrement[CHUNK];
};

/* Work on the first `here` of the listed points. */
typedef void part(int here, const int *points, const double *strain, struct chunk *chunk, struct answer *answer);

/* Work on n listed points: in blocks, and on few that are left over one by one. */
static void in_blocks(part *of_block, part *of_point, int n, const int *points, const double *strain,
                      struct chunk *chunk, struct answer *answer) {
  while (n > 0) {
    const int here = n < FEW ? 1 : n < BLOCK ? n : BLOCK;
    (n < FEW ? of_point : of_block)(here, points, strain, chunk, answer);
    points += here, n -= here;
  }
}
