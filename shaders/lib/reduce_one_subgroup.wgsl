// Reductions over one workgroup that is one subgroup: no workgroup memory and no barrier, which
// CPUs that play the GPU are slow at.
// All invocations must call them, in uniform control flow; all get the result.
fn reduce_add(lane: u32, value: f32) -> f32 {
    return subgroupAdd(value);
}

fn reduce_max(lane: u32, value: f32) -> f32 {
    return subgroupMax(value);
}
