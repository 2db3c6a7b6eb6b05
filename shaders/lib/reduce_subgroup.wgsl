// Reductions over one workgroup of WORKGROUP_SIZE invocations with subgroup operations: one value
// a subgroup goes through workgroup memory. The subgroup's size is counted, not asked for, because
// entry points stay the same with and without subgroups.
// All invocations must call them, in uniform control flow; all get the result.
var<workgroup> reduce_scratch: array<f32, WORKGROUP_SIZE>;

fn reduce_add(lane: u32, value: f32) -> f32 {
    let size = subgroupAdd(1u);
    let first = subgroupBroadcastFirst(lane);
    let partial = subgroupAdd(value);
    if (lane == first) {
        reduce_scratch[first / size] = partial;
    }
    workgroupBarrier();
    var total = 0.0;
    for (var i = 0u; i < WORKGROUP_SIZE / size; i++) {
        total += reduce_scratch[i];
    }
    workgroupBarrier(); // the scratch may be used again at once
    return total;
}

fn reduce_max(lane: u32, value: f32) -> f32 {
    let size = subgroupAdd(1u);
    let first = subgroupBroadcastFirst(lane);
    let partial = subgroupMax(value);
    if (lane == first) {
        reduce_scratch[first / size] = partial;
    }
    workgroupBarrier();
    var largest = reduce_scratch[0];
    for (var i = 1u; i < WORKGROUP_SIZE / size; i++) {
        largest = max(largest, reduce_scratch[i]);
    }
    workgroupBarrier();
    return largest;
}
