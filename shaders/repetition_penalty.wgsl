// logits[id] ← logits[id] / penalty if positive, · penalty if not, for the listed tokens
// logits: [vocab] f32;  ids: [n] u32, distinct
// Plan: one invocation a listed token. Count and penalty come with the ids, as they change.
@group(0) @binding(2) var<storage, read> ids: array<u32>; // [2 + n]: n, bits of the penalty, ids
@group(0) @binding(10) var<storage, read_write> logits: array<f32>;

@compute @workgroup_size(WORKGROUP_SIZE)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    if (id.x >= ids[0]) {
        return;
    }
    let penalty = bitcast<f32>(ids[1]);
    let token = ids[2u + id.x];
    let logit = logits[token];
    logits[token] = select(logit * penalty, logit / penalty, logit > 0.0);
}
