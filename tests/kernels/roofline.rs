//! The limits of an adapter, with and without optional features: their kernels compare what they computed themselves, so a
//! result is one that was really read and computed.

use crate::bench::tiers;
use deltamem::measure::roofline::limits;
use pollster::block_on;

#[test]
fn limits_are_found_with_and_without_features() {
    // the wide tiers have the same kernels and the sizes of a real GPU, which take minutes here
    for (tier, gpu) in tiers().into_iter().take(2) {
        let before = gpu.counters();
        let found = block_on(limits(&gpu)).expect("limits");
        // no machine is slower than this, or faster
        for rate in [found.read_bytes_per_second, found.f32_operations_per_second] {
            assert!((1e6..1e16).contains(&rate), "{tier}: {found:?}");
        }
        assert_eq!(found.f16_operations_per_second.is_some(), gpu.tier.f16, "{tier}");
        assert!(found.read_from_bytes >= 16 << 20, "{tier}: {found:?}");
        let made = gpu.counters().since(&before);
        // what was filled and read back went through the counters
        assert!(made.bytes_uploaded >= found.read_from_bytes, "{tier}: {made:?}");
        assert!(made.buffers_created >= 4 && made.bytes_read_back > 0, "{tier}: {made:?}");
    }
}
