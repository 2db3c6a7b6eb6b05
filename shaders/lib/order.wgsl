// Logits as u32 keys: larger logits have larger keys. Comparing and counting keys does not depend
// on what a device makes of NaN (here as small as −∞) or of −0 (here 0).
fn key_of(value: f32) -> u32 {
    let bits = bitcast<u32>(value);
    let magnitude = bits & 0x7fffffffu;
    if (magnitude > 0x7f800000u) {
        return 0x007fffffu; // the key of −∞
    }
    if (magnitude == 0u) {
        return 0x80000000u;
    }
    return select(bits | 0x80000000u, ~bits, bits != magnitude);
}
