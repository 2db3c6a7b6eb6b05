// For each item in order: read, then write                               (SPEC.md sections 2, 3)
//   ρ[i] = Σ_j S[i][j]·q[j];   p[i] = Σ_j S[i][j]·k[j]
//   S[i][j] ← keep[i]·S[i][j] − erase[i]·p[i]·k[j] + write[i]·v[i]·k[j]
// projected: [items, 6, R] f32 from memory_project
// state: [layers, H_s, r, r] f32;  reads: [items, R] f32
// Plan: the rows of a state do not depend on each other, so one invocation owns row i of one
// state head, keeps it in registers and walks through the items; no barriers.
struct Params {
    num_state_heads: u32,
    layer: u32,       // index among the wrapped layers
    over_groups: u32, // 1: items are the write groups, reads are not stored; 0: the tokens
}

@group(0) @binding(0) var<uniform> params: Params;
#import step
@group(0) @binding(2) var<storage, read> projected: array<f32>;
@group(0) @binding(10) var<storage, read_write> state: array<f32>;
@group(0) @binding(11) var<storage, read_write> reads: array<f32>;

@compute @workgroup_size(WORKGROUP_SIZE)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    let n_rows = params.num_state_heads * RANK;
    let row = id.x; // head · r + i
    if (row >= n_rows) {
        return;
    }
    let n_items = select(step.n_tokens, step.n_groups, params.over_groups == 1u);
    let head_start = row / RANK * RANK;
    let state_start = (params.layer * n_rows + row) * RANK;
    var s: array<f32, RANK>;
    for (var j = 0u; j < RANK; j++) {
        s[j] = state[state_start + j];
    }
    for (var item = 0u; item < n_items; item++) {
        let q = item * 6u * n_rows + head_start;
        let k = q + n_rows;
        let gates = item * 6u * n_rows + row;
        var read = 0.0;
        var predicted = 0.0;
        for (var j = 0u; j < RANK; j++) {
            read += s[j] * projected[q + j];
            predicted += s[j] * projected[k + j];
        }
        if (params.over_groups == 0u) {
            reads[item * n_rows + row] = read;
        }
        let value = projected[gates + 2u * n_rows];
        let keep = projected[gates + 3u * n_rows];
        let erase = projected[gates + 4u * n_rows];
        let write = projected[gates + 5u * n_rows];
        for (var j = 0u; j < RANK; j++) {
            let key = projected[k + j];
            s[j] = keep * s[j] - erase * predicted * key + write * value * key;
        }
    }
    for (var j = 0u; j < RANK; j++) {
        state[state_start + j] = s[j];
    }
}
