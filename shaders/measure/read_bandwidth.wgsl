// Sums a buffer, to measure how fast memory can be read.
//
//   sums[i] = Σ_j Σ source[quad(i, j)]      of the QUADS quads of invocation i; wraps around
//
// source  [workgroups · WORKGROUP_SIZE · QUADS] vec4<u32>
// sums    [workgroups · WORKGROUP_SIZE] u32: kept, so that no read can be left out
//
// Plan: a workgroup reads a run of quads. LANE_STRIDE 1 and STEP WORKGROUP_SIZE: neighbouring
// invocations read neighbouring quads, which GPUs merge; LANE_STRIDE QUADS and STEP 1: each reads a run
// of its own, which CPUs fetch ahead. QUADS is a multiple of 4.

@group(0) @binding(2) var<storage, read> source: array<vec4<u32>>;
@group(0) @binding(10) var<storage, read_write> sums: array<u32>;

@compute @workgroup_size(WORKGROUP_SIZE)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    var at = group.x * WORKGROUP_SIZE * QUADS + lane * LANE_STRIDE;
    var a = vec4<u32>();
    var b = vec4<u32>();
    for (var j = 0u; j < QUADS; j += 4u) {
        a += source[at];
        b += source[at + STEP];
        a += source[at + 2u * STEP];
        b += source[at + 3u * STEP];
        at += 4u * STEP;
    }
    let sum = a + b;
    sums[group.x * WORKGROUP_SIZE + lane] = sum.x + sum.y + sum.z + sum.w;
}
