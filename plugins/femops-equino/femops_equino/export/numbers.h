/* Functions of numbers and of flat arrays. */

/* exp(t) for |t| <= 700 as 2^k exp(r), without branches, so that compilers vectorise it. The sum t/ln 2 + 1.5 * 2^52
 * leaves k in the last bits of its mantissa; -ffast-math would break that. */
static inline double exponential(double t) {
  const double shift = 0x1.8p52;
  union {
    double value;
    uint64_t bits;
  } power;
  t = t > 700.0 ? 700.0 : t;
  t = t < -700.0 ? -700.0 : t;
  power.value = t * 1.4426950408889634 + shift;
  const double k = power.value - shift;
  const double r = (t - k * 0x1.62e42feep-1) - k * 0x1.a39ef35793c76p-33;
  double sum = 1.0 / 479001600.0 + r * (1.0 / 6227020800.0);
  sum = 1.0 / 362880.0 + r * (1.0 / 3628800.0 + r * (1.0 / 39916800.0 + r * sum));
  sum = 1.0 / 720.0 + r * (1.0 / 5040.0 + r * (1.0 / 40320.0 + r * sum));
  sum = 1.0 / 6.0 + r * (1.0 / 24.0 + r * (1.0 / 120.0 + r * sum));
  sum = 1.0 + r * (1.0 + r * (0.5 + r * sum));
  power.bits = (power.bits + 1023u) << 52;
  return sum * power.value;
}

/* Swish, u/(1 + exp(-u)), and its slope at n arguments. */
static inline void swish(int n, const double *restrict u, double *restrict value, double *restrict slope) {
  for (int i = 0; i < n; i++) {
    const double gate = 1.0 / (1.0 + exponential(-u[i]));
    value[i] = u[i] * gate;
    slope[i] = gate + u[i] * gate * (1.0 - gate);
  }
}

/* Swish and two derivatives at n arguments. */
static inline void curved_swish(int n, const double *restrict u, double *restrict value, double *restrict slope,
                                double *restrict curvature) {
  for (int i = 0; i < n; i++) {
    const double gate = 1.0 / (1.0 + exponential(-u[i])), rise = gate * (1.0 - gate);
    value[i] = u[i] * gate;
    slope[i] = gate + u[i] * rise;
    curvature[i] = rise * (2.0 + u[i] * (1.0 - 2.0 * gate));
  }
}

/* x - ln(1 + x) for |x| < 0.1. */
static inline double series(double x) {
  const double u = x / (2.0 + x), v = u * u;
  return u * (x - 2.0 * v * (1.0 / 3.0 + v * (0.2 + v * (1.0 / 7.0 + v * (1.0 / 9.0 + v * (1.0 / 11.0))))));
}

/* x - ln(1 + x), infinite for x <= -1. */
static inline double less_log1p(double x) { return x > -1.0 ? x - log1p(x) : x != x ? x : HUGE_VAL; }
