// The memory's linear rows stored as f32.
@group(0) @binding(3) var<storage, read> memory_weight: array<vec4<f32>>; // [n, ceil(k / 4)]

fn memory_quad(i: u32) -> vec4<f32> {
    return memory_weight[i];
}
