// attention_serial's loops over the pairs of a head, two a round: a quarter of the text, which
// SwiftShader compiles in a quarter of the time and runs faster.
const ROUND: u32 = 2u;

// q times four keys.
fn scores_of(query: u32, slots: vec4<u32>) -> vec4<f32> {
    var scores = vec4(0.0);
    for (var i = 0u; i + ROUND <= HALF; i += ROUND) {
        scores += products(query, slots, i);
        scores += products(query, slots, i + 1u);
    }
    for (var i = HALF / ROUND * ROUND; i < HALF; i++) {
        scores += products(query, slots, i);
    }
    return scores;
}

// sums · rescale + the weighted values.
fn mix(
    sums: ptr<function, array<vec2<f32>, HALF>>,
    rescale: f32,
    weights: vec4<f32>,
    slots: vec4<u32>,
) {
    for (var i = 0u; i + ROUND <= HALF; i += ROUND) {
        (*sums)[i] = (*sums)[i] * rescale + mixed(weights, slots, i);
        (*sums)[i + 1u] = (*sums)[i + 1u] * rescale + mixed(weights, slots, i + 1u);
    }
    for (var i = HALF / ROUND * ROUND; i < HALF; i++) {
        (*sums)[i] = (*sums)[i] * rescale + mixed(weights, slots, i);
    }
}
