// ids ← ids ∪ {the token that is fed}: a decode step adds to the penalised tokens
// tokens: [T] u32, the step's token first;  ids: [2 + n] u32 as repetition_penalty reads them
// Plan: one workgroup looks through the list; its first invocation appends. Nothing is added once the
// reply is over (a step of no tokens).
#import step
@group(0) @binding(2) var<storage, read> tokens: array<u32>; // [T]
@group(0) @binding(10) var<storage, read_write> ids: array<u32>; // [2 + n]: n, bits of the penalty, ids

var<workgroup> is_listed: atomic<u32>;

@compute @workgroup_size(WORKGROUP_SIZE)
fn main(@builtin(local_invocation_index) lane: u32) {
    if (lane == 0u) {
        atomicStore(&is_listed, 0u);
    }
    workgroupBarrier();
    let n = ids[0];
    let token = tokens[0];
    for (var i = lane; i < n; i += WORKGROUP_SIZE) {
        if (ids[2u + i] == token) {
            atomicStore(&is_listed, 1u);
        }
    }
    workgroupBarrier();
    if (lane == 0u && step.n_tokens > 0u && atomicLoad(&is_listed) == 0u) {
        ids[2u + n] = token;
        ids[0] = n + 1u;
    }
}
