// ρ of a call's only token, made by every workgroup that takes it       (SPEC.md sections 2, 3)
// S stays: a later dispatch writes it.
@group(0) @binding(5) var<storage, read> raw: array<f32>; // [1, raw_stride]
@group(0) @binding(11) var<storage, read> state: array<f32>; // [layers, H_s, r, r]

#import row_read

var<workgroup> own_reads: array<f32, params.n_reads>;

// For the whole workgroup, in uniform control flow.
fn load_reads(token: u32, lane: u32) {
    for (var row = lane; row < params.n_reads; row += WORKGROUP_SIZE) {
        var s = state_row(params.layer * params.n_reads + row);
        own_reads[row] = row_read(row, 0u, &s);
    }
    workgroupBarrier();
}

fn read_quad(token: u32, i: u32) -> vec4<f32> {
    let at = 4u * i;
    return vec4(own_reads[at], own_reads[at + 1u], own_reads[at + 2u], own_reads[at + 3u]);
}
