/* EquiNO with an adjoint correction of the stress; the tangents are those of the networks. */

static void evaluate_chunk(int count, const double *strain, struct answer *answer) {
  struct chunk chunk;
  int points[CHUNK];
  list_all(points);
  if (answer->tangent || answer->tangent_33)
    in_blocks(respond_of_block, respond_of_point, count, points, strain, 0, answer);
  in_blocks(adjust_of_block, adjust_of_point, count, points, strain, &chunk, answer);
  for (int i = 0; i < count; i++)
    if (!(chunk.decrement[i] <= LARGEST_DECREMENT)) answer->status[i] = FEMOPS_NOT_CONVERGED;
  if (answer->stress) memcpy(answer->stress, chunk.stress, (size_t)count * sizeof chunk.stress[0]);
  if (answer->error) in_blocks(indicate_of_block, indicate_of_point, count, points, strain, &chunk, answer);
}
