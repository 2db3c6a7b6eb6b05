// The δ-mem recurrence and its gradient on the CPU, f32. Compiled and called by delta_scan.py.
//
// Per episode and state head (R rows and columns, S[i][j] with i the value row), for t = 0..T-1:
//   read[i] = Σ_j S[i][j]·q[j],  then  u[i] = v[i] − Σ_j S[i][j]·k[j]
//   S[i][j] ← keep[i]·S[i][j] + beta[i]·u[i]·k[j]
// Layout: q, k, v, beta, keep, read are [N, T, R] with N = episodes × heads; states is [N, T + 1, R, R].
#define R 8

void delta_scan(long n_rows, long n_tokens, const float *q, const float *k, const float *v, const float *beta,
                const float *keep, float *states, float *read) {
    for (long n = 0; n < n_rows; n++) {
        float *s = states + n * (n_tokens + 1) * R * R;
        for (long t = 0; t < n_tokens; t++, s += R * R) {
            long at = (n * n_tokens + t) * R;
            for (int i = 0; i < R; i++) {
                float r = 0, p = 0;
                for (int j = 0; j < R; j++) {
                    r += s[i * R + j] * q[at + j];
                    p += s[i * R + j] * k[at + j];
                }
                read[at + i] = r;
                float w = beta[at + i] * (v[at + i] - p);
                for (int j = 0; j < R; j++) s[R * R + i * R + j] = keep[at + i] * s[i * R + j] + w * k[at + j];
            }
        }
    }
}

// g holds dL/d(last state), [N, R, R], and leaves with dL/d(first state).
void delta_scan_gradient(long n_rows, long n_tokens, const float *q, const float *k, const float *v, const float *beta,
                         const float *keep, const float *states, const float *dread, float *g_all, float *dq, float *dk,
                         float *dv, float *dbeta, float *dkeep) {
    for (long n = 0; n < n_rows; n++) {
        float *g = g_all + n * R * R;
        const float *s = states + (n * (n_tokens + 1) + n_tokens - 1) * R * R;
        for (long t = n_tokens - 1; t >= 0; t--, s -= R * R) {
            long at = (n * n_tokens + t) * R;
            float kq[R] = {0}, kk[R] = {0};
            for (int i = 0; i < R; i++) {
                float a = 0, p = 0, h = 0;
                for (int j = 0; j < R; j++) {
                    a += g[i * R + j] * k[at + j];
                    p += s[i * R + j] * k[at + j];
                    h += g[i * R + j] * s[i * R + j];
                }
                float u = v[at + i] - p, b = beta[at + i], gr = dread[at + i], dp = -b * a;
                dbeta[at + i] = u * a;
                dkeep[at + i] = h;
                dv[at + i] = b * a;
                for (int j = 0; j < R; j++) {
                    kk[j] += b * u * g[i * R + j] + dp * s[i * R + j];
                    kq[j] += gr * s[i * R + j];
                    g[i * R + j] = keep[at + i] * g[i * R + j] + dp * k[at + j] + gr * q[at + j];
                }
            }
            for (int j = 0; j < R; j++) {
                dq[at + j] = kq[j];
                dk[at + j] = kk[j];
            }
        }
    }
}
