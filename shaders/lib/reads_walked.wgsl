// ρ of a token, made by every workgroup that takes it: the rows of S walk through the tokens before it
// (SPEC.md sections 2, 3). S stays as it was before the chunk: a later dispatch writes it.
@group(0) @binding(5) var<storage, read> raw: array<f32>; // [T, raw_stride]
@group(0) @binding(11) var<storage, read> state: array<f32>; // [layers, H_s, r, r]

#import memory_row

var<workgroup> own_reads: array<f32, params.n_reads>;

// beta_bias | lambda_bias lie behind the corrections.
fn gate_bias(i: u32) -> f32 {
    let at = params.first_bias + i;
    return adjustments[at / 4u][at % 4u];
}

// For the whole workgroup, in uniform control flow.
fn load_reads(token: u32, lane: u32) {
    for (var row = lane; row < params.n_reads; row += WORKGROUP_SIZE) {
        var s = state_row(row);
        if (params.writes == 1u) {
            for (var earlier = 0u; earlier < token; earlier++) {
                _ = row_write(row, earlier, &s);
            }
        }
        own_reads[row] = row_read(row, token, &s);
    }
    workgroupBarrier();
}

fn read_quad(token: u32, i: u32) -> vec4<f32> {
    let at = 4u * i;
    return vec4(own_reads[at], own_reads[at + 1u], own_reads[at + 2u], own_reads[at + 3u]);
}
