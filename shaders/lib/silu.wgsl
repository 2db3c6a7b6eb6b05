// silu(gate) · up,  silu(z) = z · sigmoid(z). Far below zero the gate is held at −87: silu is 0 there,
// and exp would overflow.
fn gated(gate: f32, up: f32) -> f32 {
    let held = max(gate, -87.0);
    return held / (1.0 + exp(-min(held, 87.0))) * up;
}
