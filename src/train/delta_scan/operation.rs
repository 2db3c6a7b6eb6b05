//! The recurrence as one operation of Burn's CPU backend, with its own backward step. Owns how tensors
//! become slices and gradients tensors; the arithmetic is `recurrence.rs`.

use super::Projected;
use super::recurrence::{self, N_INPUTS, Sizes};
use burn_dispatch::backends::autodiff::checkpoint::base::Checkpointer;
use burn_dispatch::backends::autodiff::checkpoint::strategy::NoCheckpointing;
use burn_dispatch::backends::autodiff::grads::Gradients;
use burn_dispatch::backends::autodiff::ops::{Backward, Ops, OpsKind};
use burn_dispatch::backends::flex::FlexTensor;
use burn_dispatch::backends::{Autodiff, Flex};
use burn_tensor::{Tensor, TensorData, s};
use std::sync::Arc;

/// As [`super::scan`]; `None` if the tensors are not on the CPU backend.
pub(super) fn scan(
    state: &Tensor<4>,
    projected: &Projected,
    segment: Option<usize>,
) -> Option<(Tensor<4>, Tensor<4>)> {
    let [n_batch, n_heads, n_tokens, rank] = projected.q.dims();
    let sizes = Sizes { n: n_batch * n_heads, n_tokens, rank, segment };
    let Projected { q, k, v, log_keep, erase, write } = projected;
    let inputs = [state, q, k, v, log_keep, erase, write];
    let found: Tensor<3> = match inputs.iter().any(|x| x.is_autodiff()) {
        false => {
            let inputs = all(inputs.map(|x| x.clone().try_into_primitive::<Flex>().ok()))?;
            Tensor::from_primitive::<Flex>(forward(&sizes, &inputs.map(contiguous)).0)
        }
        true => {
            let inputs = inputs.map(|x| match x.is_autodiff() {
                true => x.clone(),
                false => x.clone().autodiff(),
            });
            let inputs = inputs.map(|x| x.try_into_primitive::<Autodiff<Flex>>().ok());
            let parts = all(inputs)?.map(|x| x.into_parts());
            let mut nodes = Vec::with_capacity(N_INPUTS);
            let inputs = parts.map(|(values, node)| {
                nodes.push(node);
                contiguous(values)
            });
            let nodes = nodes.try_into().ok()?;
            let (found, kept) = forward(&sizes, &inputs);
            let operation = DeltaScan.prepare::<NoCheckpointing>(nodes).compute_bound();
            Tensor::from_primitive::<Autodiff<Flex>>(match operation.stateful() {
                OpsKind::Tracked(operation) => {
                    let saved = Saved { sizes, inputs, kept: Arc::new(kept) };
                    operation.finish(saved, found)
                }
                OpsKind::UnTracked(operation) => operation.finish(found),
            })
        }
    };
    let reads: Tensor<3> = found.clone().slice(s![.., 0..n_tokens, ..]);
    let after: Tensor<3> = found.slice(s![.., n_tokens.., ..]);
    Some((
        reads.reshape([n_batch, n_heads, n_tokens, rank]),
        after.reshape([n_batch, n_heads, rank, rank]),
    ))
}

fn all<T>(found: [Option<T>; N_INPUTS]) -> Option<[T; N_INPUTS]> {
    let found: Option<Vec<T>> = found.into_iter().collect();
    found?.try_into().ok()
}

fn contiguous(x: FlexTensor) -> FlexTensor {
    x.to_contiguous()
}

fn values(x: &FlexTensor) -> &[f32] {
    x.as_slice().expect("a contiguous tensor of f32")
}

fn tensor<const D: usize>(values: Vec<f32>, shape: [usize; D]) -> FlexTensor {
    FlexTensor::from_data(TensorData::new(values, shape))
}

/// What the recurrence finds `[n, T + r, r]`, and the states it keeps.
fn forward(sizes: &Sizes, inputs: &[FlexTensor; N_INPUTS]) -> (FlexTensor, Vec<f32>) {
    let (found, kept) = recurrence::forward(sizes, &inputs.each_ref().map(values));
    (tensor(found, [sizes.n, sizes.n_tokens + sizes.rank, sizes.rank]), kept)
}

/// The operation, as a node of the graph.
#[derive(Debug)]
struct DeltaScan;

/// What its backward step needs.
#[derive(Debug, Clone)]
struct Saved {
    sizes: Sizes,
    inputs: [FlexTensor; N_INPUTS],
    kept: Arc<Vec<f32>>,
}

impl Backward<Flex, N_INPUTS> for DeltaScan {
    type State = Saved;

    fn backward(
        self,
        ops: Ops<Saved, N_INPUTS>,
        gradients: &mut Gradients,
        _checkpointer: &mut Checkpointer,
    ) {
        let gradient = contiguous(gradients.consume::<Flex>(&ops.node));
        let Saved { sizes, inputs, kept } = ops.state;
        let found =
            recurrence::backward(&sizes, &inputs.each_ref().map(values), &kept, values(&gradient));
        for ((parent, input), gradient) in ops.parents.into_iter().zip(&inputs).zip(found) {
            if let Some(node) = parent {
                let gradient = TensorData::new(gradient, input.layout().shape().clone());
                gradients.register::<Flex>(node.id, FlexTensor::from_data(gradient));
            }
        }
    }
}
