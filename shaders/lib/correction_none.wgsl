// No correction: what a product writes is the product.
fn correction(token: u32, row: u32) -> f32 {
    return 0.0;
}
