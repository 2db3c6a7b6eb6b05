//! Training of δ-mem adapters on a frozen backbone. Owns the differentiable forward pass (Burn
//! tensors, SPEC.md sections 1 to 3), episodes, the optimiser, checkpoints and the files a training
//! leaves behind. Native only, cargo feature `train`.
//!
//! The seam: [`Episode`]s and an [`AdapterParameters`] go in, [`Trainer::step`] moves the
//! parameters, and they come out as the reference's adapter files. Parameters and the optimiser's
//! moments live on the host as plain f32, so that a checkpoint is exact and no backend has a say in
//! it; a step copies them to the device, and only gradients come back.
//!
//! The forward pass is proved against the CPU twin, its gradients against finite differences
//! (`tests.rs`), a trained adapter against the shaders (`tests/train.rs`).

mod adapter;
mod backbone;
mod batch;
mod checkpoint;
mod delta_scan;
mod episode;
mod forward;
#[cfg(feature = "train-gpu")]
mod gpu_device;
mod initial;
mod log;
mod optimizer;
mod output;
mod plot;
mod schedule;
#[cfg(test)]
mod tests;
mod torch_file;
mod trainer;

pub use adapter::AdapterParameters;
pub use backbone::Backbone;
pub use batch::CallBatch;
pub use checkpoint::Checkpoint;
pub use episode::{Episode, EpisodeCall, EpisodeReader};
pub use forward::Context;
#[cfg(feature = "train-gpu")]
pub use gpu_device::gpu_device;
pub use initial::{Initialization, OutputInit};
pub use log::{LogLine, TrainingLog};
pub use optimizer::{AdamW, AdamWOptions};
pub use output::write_adapter;
pub use plot::{LossCurve, loss_curve_svg};
pub use schedule::LearningRate;
pub use trainer::{Evaluation, StepReport, Trainer, TrainerOptions};

/// Where tensors live; see `burn_tensor::Device`.
pub use burn_tensor::Device;
