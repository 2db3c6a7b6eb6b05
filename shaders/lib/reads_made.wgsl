// ρ = S·q of a call's only token, made by every workgroup that takes it   (SPEC.md sections 2, 3)
// raw: [1, raw_stride] f32: m_q first, R;  state: [layers, H_s, r, r] f32
// An invocation has a row of S and makes q of its head by itself, as in lib/memory_walk; q is divided by
// its norm after the product. S stays: a later dispatch writes it.
@group(0) @binding(5) var<storage, read> raw: array<f32>;
@group(0) @binding(11) var<storage, read> state: array<f32>;

#import gates

var<workgroup> own_reads: array<f32, params.n_reads>;

// For the whole workgroup, in uniform control flow.
fn load_reads(token: u32, lane: u32) {
    for (var row = lane; row < params.n_reads; row += WORKGROUP_SIZE) {
        let head_start = row / RANK * RANK;
        let state_start = (params.layer * params.n_reads + row) * RANK;
        var read = 0.0;
        var squares = 0.0;
        for (var j = 0u; j < RANK; j++) {
            var q = raw[head_start + j];
            if (params.normalize_qk == 1u) {
                q = precise_tanh(q);
                squares += q * q;
            }
            read += state[state_start + j] * q;
        }
        if (params.normalize_qk == 1u) {
            read /= max(sqrt(squares), 1e-6);
        }
        own_reads[row] = read;
    }
    workgroupBarrier();
}

fn read_quad(token: u32, i: u32) -> vec4<f32> {
    let at = 4u * i;
    return vec4(own_reads[at], own_reads[at + 1u], own_reads[at + 2u], own_reads[at + 3u]);
}
