// The index of the largest logit, the lowest on ties                     (SPEC.md section 7)
// logits: [vocab] f32;  result: [1] u32
// Plan: one workgroup; every invocation strides through the logits, then a tree over (key, index).
struct Params {
    n: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> logits: array<f32>;
@group(0) @binding(10) var<storage, read_write> result: array<u32>;

#import order

var<workgroup> keys: array<u32, WORKGROUP_SIZE>;
var<workgroup> indices: array<u32, WORKGROUP_SIZE>;

@compute @workgroup_size(WORKGROUP_SIZE)
fn main(@builtin(local_invocation_index) lane: u32) {
    var best = 0u; // below every key
    var index = 0xffffffffu;
    for (var i = lane; i < params.n; i += WORKGROUP_SIZE) {
        let key = key_of(logits[i]);
        if (key > best) {
            best = key;
            index = i;
        }
    }
    keys[lane] = best;
    indices[lane] = index;
    workgroupBarrier();
    for (var n = WORKGROUP_SIZE / 2u; n > 0u; n /= 2u) {
        if (lane < n) {
            let other = keys[lane + n];
            let tie = other == keys[lane] && indices[lane + n] < indices[lane];
            if (other > keys[lane] || tie) {
                keys[lane] = other;
                indices[lane] = indices[lane + n];
            }
        }
        workgroupBarrier();
    }
    if (lane == 0u) {
        result[0] = indices[0];
    }
}
