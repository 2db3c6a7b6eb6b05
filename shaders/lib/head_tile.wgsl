// As lib/head_adjusted, for a tile of tokens that share what is loaded of D:
//   x = qkv + D · ρ;  q and k: x = w · x / sqrt(mean(x²) + eps)          (SPEC.md sections 1, 2)
// R is a multiple of 4 here, or 0. Held in workgroup memory: a rotated element takes two.
@group(0) @binding(3) var<storage, read> adjustments: array<vec4<f32>>; // w of q, of k (d each, if has_norm); then D

#import corrected_head
#import reduce
#import reads

const TILE: u32 = params.tile_tokens;

var<workgroup> head_values: array<f32, TILE * HEAD_DIM>;

// The head of every token of a tile, for the whole workgroup, in uniform control flow; head counts q,
// then k, then v heads.
fn load_heads(first_token: u32, head: u32, lane: u32) {
    let n_tile = min(TILE, step.n_tokens - first_token);
    let n_qk = params.n_heads + params.n_kv_heads;
    let n_quads = params.n_reads / 4u;
    let first = first_adjustment(head);
    let start = first_token * params.stride + head * HEAD_DIM;
    if (is_corrected(head)) {
        load_reads(first_token, lane);
        for (var j = 0u; j < n_quads; j += 2u) {
            let k = min(j + 1u, n_quads - 1u);
            // all elements of a head share the reads; tokens past the end repeat the last one
            var near: array<vec4<f32>, TILE>;
            var far: array<vec4<f32>, TILE>;
            for (var t = 0u; t < TILE; t++) {
                let token = first_token + min(t, n_tile - 1u);
                near[t] = read_quad(token, j);
                far[t] = select(vec4(0.0), read_quad(token, k), k > j);
            }
            for (var i = lane; i < HEAD_DIM; i += WORKGROUP_SIZE) {
                let column = adjustments[first + i * n_quads + j];
                let next = adjustments[first + i * n_quads + k];
                for (var t = 0u; t < TILE; t++) {
                    let own = min(t, n_tile - 1u);
                    var before = 0.0;
                    if (j == 0u) {
                        before = qkv[start + own * params.stride + i];
                    } else {
                        before = head_values[t * HEAD_DIM + i];
                    }
                    head_values[t * HEAD_DIM + i] =
                        before + dot(column, near[t]) + dot(next, far[t]);
                }
            }
        }
    } else {
        for (var t = 0u; t < n_tile; t++) {
            for (var i = lane; i < HEAD_DIM; i += WORKGROUP_SIZE) {
                head_values[t * HEAD_DIM + i] = qkv[start + t * params.stride + i];
            }
        }
    }
    if (params.has_norm == 1u) {
        let w = select(0u, HEAD_DIM, head >= params.n_heads);
        for (var t = 0u; t < n_tile; t++) {
            var squares = 0.0;
            for (var i = lane; i < HEAD_DIM; i += WORKGROUP_SIZE) {
                squares += head_values[t * HEAD_DIM + i] * head_values[t * HEAD_DIM + i];
            }
            let scale = 1.0 / sqrt(reduce_add(lane, squares) / f32(HEAD_DIM) + params.eps);
            if (head < n_qk) {
                for (var i = lane; i < HEAD_DIM; i += WORKGROUP_SIZE) {
                    head_values[t * HEAD_DIM + i] *=
                        adjustments[(w + i) / 4u][(w + i) % 4u] * scale;
                }
            }
        }
    }
    workgroupBarrier();
}

// Element i of a token's head, which was loaded.
fn element(token: u32, head: u32, i: u32) -> f32 {
    return head_values[token % TILE * HEAD_DIM + i];
}
