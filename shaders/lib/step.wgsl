// The numbers that change from call to call; everything else is fixed at load. Storage, not uniform:
// a loop bound in a uniform makes lavapipe compile anew at every dispatch.
struct Step {
    n_tokens: u32, // tokens of this chunk
    n_past: u32,   // tokens in the KV cache before this chunk
    n_groups: u32, // write groups of this call (message or sentence means)
    inverse_temperature: f32, // for the exponentials of top_k
}

@group(0) @binding(1) var<storage, read> step: Step;
