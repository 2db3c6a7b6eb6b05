// attention_serial's loops over the pairs of a head, eight a round: an eighth of the rounds, of which
// lavapipe has no more than 65,535.
const ROUND: u32 = 8u;

// q times four keys.
fn scores_of(query: u32, slots: vec4<u32>) -> vec4<f32> {
    var scores = vec4(0.0);
    for (var i = 0u; i + ROUND <= HALF; i += ROUND) {
        scores += products(query, slots, i);
        scores += products(query, slots, i + 1u);
        scores += products(query, slots, i + 2u);
        scores += products(query, slots, i + 3u);
        scores += products(query, slots, i + 4u);
        scores += products(query, slots, i + 5u);
        scores += products(query, slots, i + 6u);
        scores += products(query, slots, i + 7u);
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
        (*sums)[i + 2u] = (*sums)[i + 2u] * rescale + mixed(weights, slots, i + 2u);
        (*sums)[i + 3u] = (*sums)[i + 3u] * rescale + mixed(weights, slots, i + 3u);
        (*sums)[i + 4u] = (*sums)[i + 4u] * rescale + mixed(weights, slots, i + 4u);
        (*sums)[i + 5u] = (*sums)[i + 5u] * rescale + mixed(weights, slots, i + 5u);
        (*sums)[i + 6u] = (*sums)[i + 6u] * rescale + mixed(weights, slots, i + 6u);
        (*sums)[i + 7u] = (*sums)[i + 7u] * rescale + mixed(weights, slots, i + 7u);
    }
    for (var i = HALF / ROUND * ROUND; i < HALF; i++) {
        (*sums)[i] = (*sums)[i] * rescale + mixed(weights, slots, i);
    }
}
