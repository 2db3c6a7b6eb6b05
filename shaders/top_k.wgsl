// The k largest logits with all ties of the k-th, and Σ exp((logit − max) / temperature); a NaN
// counts and is reported as −∞
// logits: [vocab] f32
// result: [4 + 2·CAPACITY] u32: count, bits of the sum, bits of the maximum, 0, then (id, bits of
//   the logit) in no particular order; a count above CAPACITY says that some did not fit
// Plan: one workgroup. Radix selection: logits become order-preserving u32 keys, four passes of one
// byte each find the k-th key with a histogram in workgroup memory, a last pass collects.
struct Params {
    n: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
#import step
@group(0) @binding(2) var<storage, read> logits: array<f32>;
@group(0) @binding(3) var<storage, read> settings: array<u32>; // [1]: k
@group(0) @binding(10) var<storage, read_write> result: array<u32>;

#import reduce
#import order

var<workgroup> histogram: array<atomic<u32>, 256>;
var<workgroup> prefix: u32;    // the bytes of the k-th key found so far
var<workgroup> remaining: u32; // how many of the k lie at or below the current byte
var<workgroup> count: atomic<u32>;

// The bits of the logit that has this key.
fn bits_of(key: u32) -> u32 {
    return select(~key, key & 0x7fffffffu, key >= 0x80000000u);
}

// Logit i as a finite number.
fn finite_logit(i: u32) -> f32 {
    return clamp(bitcast<f32>(bits_of(key_of(logits[i]))), -3.4e38, 3.4e38);
}

@compute @workgroup_size(WORKGROUP_SIZE)
fn main(@builtin(local_invocation_index) lane: u32) {
    var largest = -3.4e38;
    for (var i = lane; i < params.n; i += WORKGROUP_SIZE) {
        largest = max(largest, finite_logit(i));
    }
    largest = reduce_max(lane, largest);
    var sum = 0.0;
    for (var i = lane; i < params.n; i += WORKGROUP_SIZE) {
        sum += exp(max((finite_logit(i) - largest) * step.inverse_temperature, -80.0));
    }
    sum = reduce_add(lane, sum);

    if (lane == 0u) {
        prefix = 0u;
        remaining = min(settings[0], params.n);
    }
    for (var shift = 32u; shift > 0u; shift -= 8u) {
        for (var bin = lane; bin < 256u; bin += WORKGROUP_SIZE) {
            atomicStore(&histogram[bin], 0u);
        }
        workgroupBarrier();
        for (var i = lane; i < params.n; i += WORKGROUP_SIZE) {
            let key = key_of(logits[i]);
            // a shift by 32 is not defined, so the first pass takes every key
            if (shift == 32u || (key >> (shift & 31u)) == prefix) {
                atomicAdd(&histogram[(key >> (shift - 8u)) & 255u], 1u);
            }
        }
        workgroupBarrier();
        if (lane == 0u) {
            var bin = 255u;
            var left = remaining;
            loop {
                let n = atomicLoad(&histogram[bin]);
                if (n >= left || bin == 0u) {
                    break;
                }
                left -= n;
                bin -= 1u;
            }
            remaining = left;
            prefix = (prefix << 8u) | bin;
        }
        workgroupBarrier();
    }
    let threshold = workgroupUniformLoad(&prefix);
    if (lane == 0u) {
        atomicStore(&count, 0u);
    }
    workgroupBarrier();
    // the strictly larger ones first: they always fit, ties may not
    for (var ties = 0u; ties < 2u; ties++) {
        for (var i = lane; i < params.n; i += WORKGROUP_SIZE) {
            let key = key_of(logits[i]);
            if ((ties == 0u && key > threshold) || (ties == 1u && key == threshold)) {
                let slot = atomicAdd(&count, 1u);
                if (slot < CAPACITY) {
                    result[4u + 2u * slot] = i;
                    result[5u + 2u * slot] = bits_of(key);
                }
            }
        }
        workgroupBarrier();
    }
    if (lane == 0u) {
        result[0] = atomicLoad(&count);
        result[1] = bitcast<u32>(sum);
        result[2] = bitcast<u32>(largest);
        result[3] = 0u;
    }
}
