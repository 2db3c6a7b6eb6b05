// Ends a decode step on the device: notes the chosen token, counts on, and makes it the next step's
// token or, if it ends the reply, makes the steps that follow steps of no tokens and no groups, which
// write nothing into KV cache and memory
// results: [slots] u32, one a step: the chosen token, 0xffffffff (undecided: the host has to choose, and
//   the steps that follow are empty too), 0xfffffffe (an empty step)
// Plan: one invocation.
struct Step { // as in lib/step.wgsl, here to be written
    n_tokens: u32,
    n_past: u32,
    n_groups: u32,
    inverse_temperature: f32,
}

@group(0) @binding(2) var<storage, read> chosen: array<u32>; // [1]
@group(0) @binding(3) var<storage, read> stops: array<u32>; // [ceil(vocab / 32)], a bit a token
@group(0) @binding(10) var<storage, read_write> step: Step;
@group(0) @binding(11) var<storage, read_write> tokens: array<u32>; // [T]
@group(0) @binding(12) var<storage, read_write> results: array<u32>; // [slots]
@group(0) @binding(13) var<storage, read_write> progress: array<u32>; // [2]: steps done, slots

const UNDECIDED: u32 = 0xffffffffu;
const EMPTY: u32 = 0xfffffffeu;

@compute @workgroup_size(1)
fn main() {
    let done = progress[0];
    var result = EMPTY;
    if (step.n_tokens > 0u) {
        result = chosen[0];
        step.n_past += 1u;
        var is_over = result == UNDECIDED;
        if (!is_over) {
            tokens[0] = result;
            is_over = ((stops[result / 32u] >> (result % 32u)) & 1u) == 1u;
        }
        if (is_over) {
            step.n_tokens = 0u;
            step.n_groups = 0u;
        }
    }
    results[done % progress[1]] = result;
    progress[0] = done + 1u;
}
