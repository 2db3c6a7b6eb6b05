//! The two forms of the scan against each other: values, and the gradient of every input.

use super::*;
use crate::replay::relative_error;
use crate::train::Device;
use burn_tensor::TensorData;
use rand_chacha::ChaCha12Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// Values in 0 … 1.
fn random(shape: [usize; 4], random: &mut ChaCha12Rng) -> TensorData {
    let n = shape.iter().product();
    let values: Vec<f32> = (0..n).map(|_| random.next_u32() as f32 / 2f32.powi(32)).collect();
    TensorData::new(values, shape)
}

type Scan = fn(Tensor<4>, &Projected, Option<usize>) -> (Tensor<4>, Tensor<4>);

/// Reads, the state after, and the gradients of the inputs (empty = none).
fn run(form: Scan, sizes: [usize; 4], segment: Option<usize>, tracks_state: bool) -> Vec<Vec<f32>> {
    let [n_batch, n_heads, _, rank] = sizes;
    let mut seed = ChaCha12Rng::seed_from_u64(7);
    let device = Device::flex().autodiff();
    let mut leaf = |shape: [usize; 4], low: f32, high: f32| -> Tensor<4> {
        let values = Tensor::from_data(random(shape, &mut seed), &device);
        (values * (high - low) + low).detach()
    };
    let state = leaf([n_batch, n_heads, rank, rank], -1.0, 1.0);
    let bound = (3.0 / rank as f32).sqrt();
    let ranges =
        [(-bound, bound), (-bound, bound), (-1.0, 1.0), (-0.7, 0.0), (0.0, 1.0), (0.0, 1.0)];
    let tokens = ranges.map(|(low, high)| leaf(sizes, low, high).require_grad());
    let [q, k, v, log_keep, erase, write] = tokens.clone();
    let state = match tracks_state {
        true => state.require_grad(),
        false => state,
    };
    let projected = Projected { q, k, v, log_keep, erase, write };
    let (reads, after) = form(state.clone(), &projected, segment);
    let loss = (reads.clone() * leaf(sizes, -1.0, 1.0)).sum()
        + (after.clone() * leaf([n_batch, n_heads, rank, rank], -1.0, 1.0)).sum();
    let mut gradients = loss.backward();
    let mut found: Vec<Vec<f32>> =
        [reads, after].map(|x| x.into_data().try_to_vec().unwrap()).into();
    for input in [state].iter().chain(&tokens) {
        let gradient = input.grad_remove(&mut gradients);
        found.push(gradient.map_or(Vec::new(), |g| g.into_data().try_to_vec().unwrap()));
    }
    found
}

#[test]
fn the_operation_gives_what_tensor_operations_give() {
    let operation: Scan = |state, projected, segment| {
        operation::scan(&state, projected, segment).expect("a tensor of the CPU backend")
    };
    for (sizes, segment, tracks_state) in [
        ([2, 3, 37, 5], None, true),
        ([1, 1, 1, 8], None, true),
        ([1, 2, 16, 8], None, false),
        ([2, 1, 50, 4], Some(7), true),
    ] {
        let found = run(operation, sizes, segment, tracks_state);
        let expected = run(scan_chunks, sizes, segment, tracks_state);
        for (index, (found, expected)) in found.iter().zip(&expected).enumerate() {
            // Where truncating cuts all of the state's gradient, one form has zeros, the other none.
            if expected.is_empty() {
                assert!(found.iter().all(|&x| x == 0.0), "{sizes:?}, output {index}");
                continue;
            }
            let error = relative_error(found, expected);
            assert!(error < 1e-4, "{sizes:?}, output {index}: relative error {error}");
        }
    }
}

#[test]
fn without_gradients_the_values_are_the_same() {
    let device = Device::flex();
    let mut seed = ChaCha12Rng::seed_from_u64(3);
    let mut tensor = |shape| Tensor::<4>::from_data(random(shape, &mut seed), &device);
    let sizes = [2, 2, 21, 3];
    let state = tensor([2, 2, 3, 3]);
    let projected = Projected {
        q: tensor(sizes),
        k: tensor(sizes),
        v: tensor(sizes),
        log_keep: -tensor(sizes),
        erase: tensor(sizes),
        write: tensor(sizes),
    };
    let found = operation::scan(&state, &projected, None).expect("the CPU backend");
    let expected = scan_chunks(state, &projected, None);
    for (found, expected) in [(found.0, expected.0), (found.1, expected.1)] {
        let [found, expected] = [found, expected].map(|x| x.into_data().try_to_vec().unwrap());
        assert!(relative_error(&found, &expected) < 1e-4);
    }
}
