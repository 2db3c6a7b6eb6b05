// The index of the largest logit, the lowest on ties                     (SPEC.md section 7)
// logits: [vocab] f32;  result: [1] u32
// Plan: one workgroup; every invocation strides through the logits, then a tree over (value, index).
struct Params {
    n: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> logits: array<f32>;
@group(0) @binding(10) var<storage, read_write> result: array<u32>;

var<workgroup> values: array<f32, WORKGROUP_SIZE>;
var<workgroup> indices: array<u32, WORKGROUP_SIZE>;

@compute @workgroup_size(WORKGROUP_SIZE)
fn main(@builtin(local_invocation_index) lane: u32) {
    var best = -3.4e38;
    var index = 0xffffffffu;
    for (var i = lane; i < params.n; i += WORKGROUP_SIZE) {
        let value = logits[i];
        if (value > best || index == 0xffffffffu) {
            best = value;
            index = i;
        }
    }
    values[lane] = best;
    indices[lane] = index;
    workgroupBarrier();
    for (var n = WORKGROUP_SIZE / 2u; n > 0u; n /= 2u) {
        if (lane < n) {
            let other = values[lane + n];
            let tie = other == values[lane] && indices[lane + n] < indices[lane];
            if (other > values[lane] || tie) {
                values[lane] = other;
                indices[lane] = indices[lane + n];
            }
        }
        workgroupBarrier();
    }
    if (lane == 0u) {
        result[0] = indices[0];
    }
}
