/* EquiNO without corrections: its potential network. It has no fields and therefore no error. */

static void evaluate_chunk(int count, const double *strain, struct answer *answer) {
  int points[CHUNK];
  list_all(points);
  for (int i = 0; answer->error && i < count; i++) answer->error[i] = NAN;
  in_blocks(respond_of_block, respond_of_point, count, points, strain, 0, answer);
}
