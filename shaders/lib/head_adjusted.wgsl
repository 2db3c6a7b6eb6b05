// A head of q, k or v with what δ-mem adds, then normed where the backbone norms heads:
//   x = qkv + D · ρ;  q and k: x = w · x / sqrt(mean(x²) + eps)          (SPEC.md sections 1, 2)
// R is a multiple of 4 here, or 0. Held in workgroup memory: a rotated element takes two.
@group(0) @binding(3) var<storage, read> adjustments: array<vec4<f32>>; // w of q, of k (d each, if has_norm); then D

#import corrected_head
#import reduce
#import reads

var<workgroup> head_values: array<f32, HEAD_DIM>;

// For the whole workgroup, in uniform control flow; head counts q, then k, then v heads.
fn load_heads(token: u32, head: u32, lane: u32) {
    let n_qk = params.n_heads + params.n_kv_heads;
    let n_quads = params.n_reads / 4u;
    let first = first_adjustment(head);
    let start = token * params.stride + head * HEAD_DIM;
    for (var i = lane; i < HEAD_DIM; i += WORKGROUP_SIZE) {
        head_values[i] = qkv[start + i];
    }
    if (is_corrected(head)) {
        load_reads(token, lane);
        // all elements of a head share the reads
        for (var j = 0u; j < n_quads; j += 2u) {
            let k = min(j + 1u, n_quads - 1u);
            let near = read_quad(token, j);
            let far = select(vec4(0.0), read_quad(token, k), k > j);
            for (var i = lane; i < HEAD_DIM; i += WORKGROUP_SIZE) {
                let quad = first + i * n_quads;
                head_values[i] += dot(adjustments[quad + j], near) + dot(adjustments[quad + k], far);
            }
        }
    }
    if (params.has_norm == 1u) {
        var squares = 0.0;
        for (var i = lane; i < HEAD_DIM; i += WORKGROUP_SIZE) {
            squares += head_values[i] * head_values[i];
        }
        let scale = 1.0 / sqrt(reduce_add(lane, squares) / f32(HEAD_DIM) + params.eps);
        if (head < n_qk) {
            let w = select(0u, HEAD_DIM, head >= params.n_heads);
            for (var i = lane; i < HEAD_DIM; i += WORKGROUP_SIZE) {
                head_values[i] *= adjustments[(w + i) / 4u][(w + i) % 4u] * scale;
            }
        }
    }
    workgroupBarrier();
}

// Element i of the head that was loaded.
fn element(token: u32, head: u32, i: u32) -> f32 {
    return head_values[i];
}
