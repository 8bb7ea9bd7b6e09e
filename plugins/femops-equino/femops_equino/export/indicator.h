/* Indicator of the relative error of a stress from the energy gap of two admissible fields; see certificate.py. */

/* psi(e) + psi*(s) - s : e of a strain e and a stress s (N_S, LANES) at one point: weight, K, alpha1, alpha2. */
static void OF(add_fenchel_gap)(const double *point, const double *restrict e, const double *restrict s,
                                double *restrict gap) {
  const double bulk = point[1], alpha1 = point[2], alpha2 = point[3];
  double dilation[LANES], total[LANES], n[LANES], size[LANES], s_33[LANES], x[LANES], across[LANES];
  FOR_LANES {
    dilation[p] = e[p] + e[LANES + p];
    total[p] = s[p] + s[LANES + p];
  }
#if DIM == 3
  FOR_LANES {
    dilation[p] += e[2 * LANES + p];
    total[p] += s[2 * LANES + p];
  }
#endif
  FOR_LANES n[p] = DIM == 2 ? dilation[p] * dilation[p] / 9.0 : 0.0;
  for (int i = 0; i < N_S; i++)
    FOR_LANES {
      const double deviator = e[i * LANES + p] - (i < DIM ? dilation[p] / 3.0 : 0.0);
      n[p] += deviator * deviator;
    }
  FOR_LANES {
    n[p] = sqrt(n[p]);
    const double secant = alpha1 / (alpha2 + n[p]);
    s_33[p] = DIM == 2 ? total[p] * ((3.0 * bulk - secant) / (6.0 * bulk + secant)) : 0.0;
    total[p] += s_33[p];
    s_33[p] -= total[p] / 3.0; /* now of the deviator */
    size[p] = DIM == 2 ? s_33[p] * s_33[p] : 0.0;
  }
  for (int i = 0; i < N_S; i++)
    FOR_LANES {
      const double deviator = s[i * LANES + p] - (i < DIM ? total[p] / 3.0 : 0.0);
      size[p] += deviator * deviator;
    }
  FOR_LANES {
    size[p] = sqrt(size[p]);
    x[p] = (n[p] - size[p] * ((alpha2 + n[p]) / alpha1)) / alpha2;
    const double turned = s_33[p] * n[p] + dilation[p] / 3.0 * size[p];
    across[p] = DIM == 2 ? turned * turned : 0.0;
  }
  for (int i = 0; i < N_S; i++)
    FOR_LANES {
      const double third = i < DIM ? 1.0 / 3.0 : 0.0;
      const double of_stress = s[i * LANES + p] - third * total[p], of_strain = e[i * LANES + p] - third * dilation[p];
      const double turned = of_stress * n[p] - of_strain * size[p];
      across[p] += turned * turned;
    }
  double apart[LANES];
  FOR_LANES apart[p] = series(x[p]);
  for (int p = 0; p < LANES; p++) /* calls of a library are not vectorised */
    if (!(fabs(x[p]) < 0.1)) apart[p] = less_log1p(x[p]);
  FOR_LANES {
    const double both = size[p] * n[p], volumetric = 3.0 * bulk * dilation[p] - total[p];
    gap[p] += point[0] * (volumetric * volumetric / (18.0 * bulk) + alpha1 * alpha2 * apart[p] +
                          across[p] / (2.0 * (both > 0.0 ? both : 1.0)));
  }
}

/* Energy gap (LANES) of the admissible fields of z (PADDED_M, LANES) and b (PADDED_B, LANES). */
static void OF(energy_gap)(const double *restrict z, const double *restrict b, double *restrict gap) {
  double y[PADDED_Y * LANES], product[PADDED_Y * LANES], e[GROUP * N_S * LANES], s[GROUP * N_S * LANES];
  memcpy(y, z, M * LANES * sizeof *y);
  memcpy(y + M * LANES, b, N_B * LANES * sizeof *y);
  OF(fill)(PADDED_Y, 0, product);
  OF(add_product)(PADDED_Y, M + N_B, gap_of_linear_phases, y, product);
  FOR_LANES gap[p] = 0.0;
  for (int i = 0; i < M + N_B; i++) FOR_LANES gap[p] += 0.5 * y[i * LANES + p] * product[i * LANES + p];
  for (int group = 0; group < indicator.n_groups; group++) {
    OF(fill)(GROUP * N_S, 0, e);
    OF(add_product)(GROUP * N_S, M, strain_at_points + group * M * GROUP * N_S, z, e);
    OF(fill)(GROUP * N_S, 0, s);
    OF(add_product)(GROUP * N_S, N_B, stress_at_points + group * N_B * GROUP * N_S, b, s);
    for (int k = 0; k < GROUP; k++)
      OF(add_fenchel_gap)(phase_of_points + (group * GROUP + k) * 4, e + k * N_S * LANES, s + k * N_S * LANES, gap);
  }
}

/* sqrt(s . metric . s) (LANES) of stresses (N_S, LANES). */
static void OF(norm)(const double *stress, double *restrict norm) {
  FOR_LANES norm[p] = 0.0;
  for (int i = 0; i < N_S; i++)
    for (int j = 0; j < N_S; j++)
      FOR_LANES norm[p] += metric[i * N_S + j] * stress[i * LANES + p] * stress[j * LANES + p];
  FOR_LANES norm[p] = sqrt(norm[p]);
}

/* Relative error (LANES) of stresses (N_S, LANES) answered with the coefficients in z (PADDED_M, LANES), after one
 * Newton step at the indicator's points. Where the gap is above one hundredth of the energy, femops looks for a better
 * admissible stress and may state less. */
static void OF(relative_error)(double *restrict z, const double *stress, double *restrict error) {
  double hessian[PAIRS * LANES], g[PADDED_M * LANES], force[INDICATOR_GROUPS * GROUP * N_D * LANES];
  double b[PADDED_B * LANES], away[N_S * LANES], gap[LANES], size[LANES], distance[LANES];
  OF(derivatives)(z, g, hessian);
  OF(eliminate)(hessian);
  OF(gradient)(&indicator, z, g, 0);
  OF(substitute)(hessian, g, gap);
  for (int i = N_E * LANES; i < M * LANES; i++) z[i] -= g[i];
  OF(gradient)(&indicator, z, g, force);
  OF(fill)(PADDED_B, 0, b);
  OF(add_product)(PADDED_B, M, stress_of_linear_phases, z, b);
  OF(add_product)(PADDED_B, INDICATOR_GROUPS * GROUP * N_D, stress_of_points, force, b);
  OF(substitute)(hessian, g, gap); /* g_E is now the stress of the better fields */
  OF(energy_gap)(z, b, gap);
  for (int i = 0; i < N_S * LANES; i++) away[i] = stress[i] - g[i];
  OF(norm)(stress, size);
  OF(norm)(away, distance);
  FOR_LANES {
    double work = 0.0;
    int strained = 0;
    for (int i = 0; i < N_S; i++) {
      work += 0.5 * stress[i * LANES + p] * z[i * LANES + p];
      strained |= z[i * LANES + p] != 0.0;
    }
    work = work > 0.0 ? work : 0.0; /* negative work does not imply a small error */
    const double floor = ROUND_OFF * work, eta = gap[p] < floor ? floor : gap[p];
    const double largest = size[p] > distance[p] ? size[p] : distance[p];
    const int nothing = (!strained && largest <= NO_STRESS) || largest == 0.0;
    const double found = nothing ? 0.0 : distance[p] / size[p] + eta / work;
    error[p] = found >= 0.0 ? found : HUGE_VAL; /* not a number: unknown */
  }
}
