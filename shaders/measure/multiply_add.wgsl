// Multiplies and adds in registers, to measure how fast dot products can be.
//
//   x ← x · factor + term      ROUNDS times, for each of four quads
//
// seeds    [2] vec4<f32>: factor, term; read from memory, so that nothing is known in advance
// results  [workgroups · WORKGROUP_SIZE] f32: the sum of all x
//
// Plan: each step needs the one before, so none can be left out or merged; several quads hide the
// latency. With factors below 1 nothing overflows. NUMBER is f32 or f16.

@group(0) @binding(2) var<storage, read> seeds: array<vec4<f32>>;
@group(0) @binding(10) var<storage, read_write> results: array<f32>;

@compute @workgroup_size(WORKGROUP_SIZE)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let factor = vec4<NUMBER>(seeds[0]);
    let term = vec4<NUMBER>(seeds[1]);
    var a = vec4<NUMBER>();
    var b = factor;
    var c = term;
    var d = factor + term;
    for (var i = 0u; i < ROUNDS; i += 1u) {
        a = fma(a, factor, term);
        b = fma(b, factor, term);
        c = fma(c, factor, term);
        d = fma(d, factor, term);
    }
    let sum = vec4<f32>(a) + vec4<f32>(b) + vec4<f32>(c) + vec4<f32>(d);
    results[group.x * WORKGROUP_SIZE + lane] = sum.x + sum.y + sum.z + sum.w;
}
