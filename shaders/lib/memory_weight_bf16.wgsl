// The memory's linear rows stored as bf16.
@group(0) @binding(3) var<storage, read> memory_weight: array<vec2<u32>>; // [n, ceil(k / 4)], 4 × bf16

#import bf16

fn memory_quad(i: u32) -> vec4<f32> {
    return from_bf16(memory_weight[i]);
}
