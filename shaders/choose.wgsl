// The next token from the largest logits: top-k, top-p, min-p and a draw, as sampler.rs makes it
//   w[i] = exp((logit[i] − largest) / temperature), falling;  total = Σ w over what may come
//   kept = the fewest with Σ ≥ top_p·total, none below min_p;  token = the first with Σ w > u·Σ kept
// top: [4 + 2·n] u32 as top_k writes it;  uniforms: [slots] f32 in [0, 1), one a step
// chosen: [1] u32, or 0xffffffff: the host, which has f64, has to decide. That is said wherever a sum
//   in f32 comes so close to a border that its error could matter, so both always agree.
// Plan: one workgroup of as many invocations as there can be candidates. Each finds the place of its
// candidate by counting those before it (larger logit, then lower id); the first one adds up.
#import step
@group(0) @binding(2) var<storage, read> top: array<u32>;
// [4]: candidates asked for, top_k (0: off), bits of top_p (1: off), bits of min_p (0: off)
@group(0) @binding(3) var<storage, read> settings: array<u32>;
@group(0) @binding(4) var<storage, read> uniforms: array<f32>;
@group(0) @binding(5) var<storage, read> progress: array<u32>; // [2]: steps done, slots
@group(0) @binding(10) var<storage, read_write> chosen: array<u32>; // [1]

#import order

const UNDECIDED: u32 = 0xffffffffu;
// A sum of 256 terms is at most 256·2⁻²⁴ = 1.5e-5 off, their exponentials far less; twice, for two sums.
const SLACK: f32 = 4e-5;
// A sum over the vocabulary may be this much off (sampler.rs, SUM_TOLERANCE).
const SUM_SLACK: f32 = 1e-4;

var<workgroup> keys: array<u32, WORKGROUP_SIZE>;
var<workgroup> ids: array<u32, WORKGROUP_SIZE>;
var<workgroup> sorted_ids: array<u32, WORKGROUP_SIZE>;
var<workgroup> weights: array<f32, WORKGROUP_SIZE>;

// Index into the n sorted candidates.
fn pick(n: u32, uniform_number: f32) -> u32 {
    let top_p = bitcast<f32>(settings[2]);
    let min_p = bitcast<f32>(settings[3]);
    let is_cut = settings[1] > 0u;
    // with fewer than asked for these are all
    let is_all = is_cut || n < WORKGROUP_SIZE;
    var total = 0.0;
    for (var i = 0u; i < n; i++) {
        total += weights[i];
    }
    var slack = SLACK;
    if (!is_all) {
        let head = total;
        total = bitcast<f32>(top[1]);
        slack = SUM_SLACK;
        if (!(total >= head * 0.999 && total < 3.4e38)) {
            return UNDECIDED; // the host says what is wrong
        }
    }
    let nucleus = top_p * total;
    var is_complete = is_all;
    var kept = 0.0;
    var n_kept = 0u;
    for (var i = 0u; i < n; i++) {
        if (i > 0u && top_p < 1.0) {
            if (abs(kept - nucleus) < slack * total) {
                return UNDECIDED;
            }
            if (kept >= nucleus) {
                is_complete = true;
                break;
            }
        }
        if (i > 0u && min_p > 0.0) {
            if (abs(weights[i] - min_p) < SLACK * min_p) {
                return UNDECIDED;
            }
            if (weights[i] < min_p) {
                is_complete = true;
                break;
            }
        }
        kept += weights[i];
        n_kept++;
    }
    var whole = kept;
    if (!is_complete) {
        if (top_p < 1.0 || min_p > 0.0) {
            return UNDECIDED; // what cuts the tail lies in the tail
        }
        whole = total;
    }
    let target_sum = uniform_number * whole;
    var sum = 0.0;
    for (var i = 0u; i < n_kept; i++) {
        sum += weights[i];
        if (abs(sum - target_sum) < slack * whole) {
            return UNDECIDED;
        }
        if (sum > target_sum) {
            return i;
        }
    }
    return UNDECIDED;
}

@compute @workgroup_size(WORKGROUP_SIZE)
fn main(@builtin(local_invocation_index) lane: u32) {
    let count = top[0];
    let n = min(count, WORKGROUP_SIZE);
    if (lane < n) {
        ids[lane] = top[4u + 2u * lane];
        keys[lane] = key_of(bitcast<f32>(top[5u + 2u * lane]));
    }
    workgroupBarrier();
    if (lane < n) {
        var place = 0u;
        for (var i = 0u; i < n; i++) {
            let is_larger = keys[i] > keys[lane];
            let is_tie_before = keys[i] == keys[lane] && ids[i] < ids[lane];
            place += select(0u, 1u, is_larger || is_tie_before);
        }
        sorted_ids[place] = ids[lane];
        // clamped, so that −∞ (a token that is ruled out) is a number
        let logit = max(bitcast<f32>(top[5u + 2u * lane]), -3.4e38);
        let exponent = (logit - bitcast<f32>(top[2])) * step.inverse_temperature;
        weights[place] = exp(max(exponent, -80.0));
    }
    workgroupBarrier();
    if (lane == 0u) {
        // as many as the cut allows, or more, may be ties that did not fit
        let most = select(WORKGROUP_SIZE, WORKGROUP_SIZE - 1u, settings[1] > 0u);
        let largest = abs(bitcast<f32>(top[2]));
        var token = UNDECIDED;
        if (count > 0u && count <= most && largest < 3.39e38) {
            let index = pick(n, uniforms[progress[0] % progress[1]]);
            if (index < n) {
                token = sorted_ids[index];
            }
        }
        chosen[0] = token;
    }
}
