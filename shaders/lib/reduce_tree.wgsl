// Reductions over one workgroup of WORKGROUP_SIZE (a power of two) invocations, for every device.
// All invocations must call them, in uniform control flow; all get the result.
var<workgroup> reduce_scratch: array<f32, WORKGROUP_SIZE>;

fn reduce_add(lane: u32, value: f32) -> f32 {
    reduce_scratch[lane] = value;
    workgroupBarrier();
    for (var n = WORKGROUP_SIZE / 2u; n > 0u; n /= 2u) {
        if (lane < n) {
            reduce_scratch[lane] += reduce_scratch[lane + n];
        }
        workgroupBarrier();
    }
    let total = reduce_scratch[0];
    workgroupBarrier(); // the scratch may be used again at once
    return total;
}

fn reduce_max(lane: u32, value: f32) -> f32 {
    reduce_scratch[lane] = value;
    workgroupBarrier();
    for (var n = WORKGROUP_SIZE / 2u; n > 0u; n /= 2u) {
        if (lane < n) {
            reduce_scratch[lane] = max(reduce_scratch[lane], reduce_scratch[lane + n]);
        }
        workgroupBarrier();
    }
    let largest = reduce_scratch[0];
    workgroupBarrier();
    return largest;
}
