// The memory's two squashing functions. exp gets clamped arguments: some drivers overflow inside it.
fn sigmoid(x: f32) -> f32 {
    return 1.0 / (1.0 + exp(-clamp(x, -80.0, 80.0)));
}

// The built-in may lose the digits of a small x, and the normalisation would magnify the loss.
fn precise_tanh(x: f32) -> f32 {
    if (abs(x) < 0.3) {
        let s = x * x;
        let series = -1.0 / 3.0 + s * (2.0 / 15.0 + s * (-17.0 / 315.0 + s * (62.0 / 2835.0)));
        return x + x * s * series;
    }
    return sign(x) * (1.0 - 2.0 / (exp(2.0 * min(abs(x), 20.0)) + 1.0));
}
