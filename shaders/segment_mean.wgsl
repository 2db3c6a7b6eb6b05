// mean[g] += Σ_{t in group g} weight[t] · raw[t], weight = 1 / tokens of the group in the call
// The memory rows are linear in n, so the mean of the rows is the rows of the mean n̄ that SPEC.md
// section 3 projects; a call cut into chunks adds up over its chunks.
// raw: [T, raw_stride] f32;  group: [T] u32, 0xffffffff = in none;  weight: [T] f32
// mean: [layers, n_groups, raw_stride] f32, zero at the start of the call
// Plan: one invocation a column walks through the tokens; no two write the same cell.
struct Params {
    n_columns: u32,
    raw_stride: u32,
    layer: u32, // index among the wrapped layers
}

@group(0) @binding(0) var<uniform> params: Params;
#import step
@group(0) @binding(2) var<storage, read> raw: array<f32>;
@group(0) @binding(3) var<storage, read> group_of_token: array<u32>; // [T]
@group(0) @binding(4) var<storage, read> weight_of_token: array<f32>; // [T]
@group(0) @binding(10) var<storage, read_write> mean: array<f32>;

@compute @workgroup_size(WORKGROUP_SIZE)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    let column = id.x;
    if (column >= params.n_columns) {
        return;
    }
    for (var t = 0u; t < step.n_tokens; t++) {
        let group = group_of_token[t];
        if (group < step.n_groups) {
            let cell = (params.layer * step.n_groups + group) * params.raw_stride + column;
            mean[cell] += weight_of_token[t] * raw[t * params.raw_stride + column];
        }
    }
}
