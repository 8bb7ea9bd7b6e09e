/* EquiNO with Newton corrections: the law of a reduced RVE. */

static void evaluate_chunk(int count, const double *strain, struct answer *answer) {
  struct chunk chunk;
  int points[CHUNK], left = count;
  list_all(points);
  in_blocks(guess_of_block, guess_of_point, count, points, strain, &chunk, answer);
  for (int step = 0; step < MOST_CORRECTIONS && left; step++) {
    int unfinished = 0;
    in_blocks(correct_of_block, correct_of_point, left, points, strain, &chunk, answer);
    for (int i = 0; i < left; i++)
      if (!(chunk.decrement[points[i]] <= TOLERANCE)) points[unfinished++] = points[i];
    left = unfinished;
  }
  for (int i = 0; i < count; i++)
    if (!(chunk.decrement[i] <= LARGEST_DECREMENT)) answer->status[i] = FEMOPS_NOT_CONVERGED;
  list_all(points);
  if (answer->stress) memcpy(answer->stress, chunk.stress, (size_t)count * sizeof chunk.stress[0]);
  if (answer->error) in_blocks(indicate_of_block, indicate_of_point, count, points, strain, &chunk, answer);
}
