//! The trained tensors: on the host as named f32 values, on the device as leaves of a gradient step.
//! Owns how they enter the forward pass (SPEC.md section 2); what they start at is `initial.rs`.

use super::Device;
use super::initial::{Initialization, initial_values};
use crate::config::{DeltaConfig, DeltaScale, ModelConfig, adapter_tensor_name};
use crate::error::{Error, Result};
use crate::weights::{DType, TensorInfo, TensorSource};
use burn_tensor::activation::sigmoid;
use burn_tensor::{Tensor, TensorData};
use rand_chacha::ChaCha12Rng;
use rand_chacha::rand_core::SeedableRng;

/// Every tensor of an adapter as f32, in file order.
#[derive(Debug, Clone, PartialEq)]
pub struct AdapterParameters {
    tensors: Vec<Parameter>,
}

#[derive(Debug, Clone, PartialEq)]
struct Parameter {
    name: String,
    info: TensorInfo,
    values: Vec<f32>,
}

impl AdapterParameters {
    /// Fresh parameters; `weights` is the backbone that [`OutputInit::BaseSliceFixed`] looks at.
    ///
    /// [`OutputInit::BaseSliceFixed`]: super::OutputInit::BaseSliceFixed
    ///
    /// # Errors
    /// [`Error::Config`] if a target layer does not exist, [`Error::Setting`] for a scale outside
    /// its range, and what reading gives.
    pub fn init(
        model: &ModelConfig,
        delta: &DeltaConfig,
        weights: &dyn TensorSource,
        init: &Initialization,
    ) -> Result<AdapterParameters> {
        let mut random = ChaCha12Rng::seed_from_u64(init.seed);
        AdapterParameters::from_fn(model, delta, |name, shape| {
            initial_values(delta, weights, init, name, shape, &mut random)
        })
    }

    /// The parameters of an adapter that was trained before.
    ///
    /// # Errors
    /// [`Error::MissingTensor`] or [`Error::TensorShape`], and what reading gives.
    pub fn read(
        model: &ModelConfig,
        delta: &DeltaConfig,
        source: &dyn TensorSource,
    ) -> Result<AdapterParameters> {
        AdapterParameters::from_fn(model, delta, |name, shape| {
            source.check_shape(name, shape)?;
            source.read_all(name)
        })
    }

    fn from_fn(
        model: &ModelConfig,
        delta: &DeltaConfig,
        mut values: impl FnMut(&str, &[usize]) -> Result<Vec<f32>>,
    ) -> Result<AdapterParameters> {
        let mut tensors = Vec::new();
        for (name, shape) in delta.tensor_shapes(model)? {
            let values = values(&name, &shape)?;
            let info = TensorInfo { dtype: DType::F32, shape };
            tensors.push(Parameter { name, info, values });
        }
        Ok(AdapterParameters { tensors })
    }

    /// Number of tensors.
    pub fn len(&self) -> usize {
        self.tensors.len()
    }

    /// True without any tensor: no layer is wrapped.
    pub fn is_empty(&self) -> bool {
        self.tensors.is_empty()
    }

    /// Number of values in all tensors.
    pub fn n_values(&self) -> usize {
        self.tensors.iter().map(|t| t.values.len()).sum()
    }

    /// Name and shape of tensor `index`, in file order.
    pub fn describe(&self, index: usize) -> (&str, &[usize]) {
        (&self.tensors[index].name, &self.tensors[index].info.shape)
    }

    /// The values of tensor `index`, row-major.
    pub fn values(&self, index: usize) -> &[f32] {
        &self.tensors[index].values
    }

    /// The same, to be moved.
    pub fn values_mut(&mut self, index: usize) -> &mut [f32] {
        &mut self.tensors[index].values
    }

    fn find(&self, name: &str) -> Option<&Parameter> {
        self.tensors.iter().find(|tensor| tensor.name == name)
    }
}

impl TensorSource for AdapterParameters {
    fn label(&self) -> &str {
        "adapter in training"
    }

    fn names(&self) -> Vec<&str> {
        self.tensors.iter().map(|tensor| tensor.name.as_str()).collect()
    }

    fn info(&self, name: &str) -> Option<&TensorInfo> {
        self.find(name).map(|tensor| &tensor.info)
    }

    fn read_f32(&self, name: &str, start: usize, out: &mut [f32]) -> Result<()> {
        let missing = || Error::MissingTensor { file: self.label().into(), name: name.into() };
        let tensor = self.find(name).ok_or_else(missing)?;
        out.copy_from_slice(&tensor.values[start..start + out.len()]);
        Ok(())
    }
}

/// An adapter on a device, for one gradient step or an evaluation.
pub(super) struct DeviceAdapter {
    /// The parameters as they are, flat, in file order; gradients are those of these.
    pub leaves: Vec<Tensor<1>>,
    /// Per layer of the backbone; `None` = not wrapped.
    pub layers: Vec<Option<AdapterLayer>>,
}

/// One wrapped layer, ready for use.
pub(super) struct AdapterLayer {
    /// memory_q | memory_k | memory_v | beta | (lambda), `[h, 3R + G (+ G)]`
    pub rows: Tensor<2>,
    /// `[G]`
    pub beta_bias: Tensor<1>,
    /// `[G]`, `None` where λ has no projection in use.
    pub lambda_bias: Option<Tensor<1>>,
    /// delta_{q,k,v,o}_proj times c·m_X, `[R, out]`; `None` = not in `delta_heads`.
    pub corrections: [Option<Tensor<2>>; 4],
    /// Weight `[h]` and eps of the norm of Δo.
    pub o_norm: Option<(Tensor<1>, f32)>,
}

impl DeviceAdapter {
    /// Copies the parameters to `device`; `with_gradients` if a backward pass will ask for them.
    pub fn new(
        parameters: &AdapterParameters,
        model: &ModelConfig,
        delta: &DeltaConfig,
        device: &Device,
        with_gradients: bool,
    ) -> Result<DeviceAdapter> {
        let leaf = |tensor: &Parameter| {
            let data = TensorData::new(tensor.values.clone(), [tensor.values.len()]);
            match with_gradients {
                true => Tensor::<1>::from_data(data, &device.clone().autodiff()).require_grad(),
                false => Tensor::<1>::from_data(data, device),
            }
        };
        let leaves: Vec<Tensor<1>> = parameters.tensors.iter().map(leaf).collect();
        let mut layers: Vec<Option<AdapterLayer>> = (0..model.n_layers).map(|_| None).collect();
        for layer in delta.wrapped_layers(model)? {
            let at = |part: &str| {
                let name = adapter_tensor_name(layer, part);
                let index = parameters.tensors.iter().position(|t| t.name == name);
                index.ok_or(Error::MissingTensor { file: parameters.label().into(), name })
            };
            let vector = |part: &str| -> Result<Tensor<1>> { Ok(leaves[at(part)?].clone()) };
            let matrix = |part: &str| -> Result<Tensor<2>> {
                let index = at(part)?;
                let shape = &parameters.tensors[index].info.shape;
                Ok(leaves[index].clone().reshape([shape[0], shape[1]]))
            };
            let mut rows = Vec::new();
            for part in ["memory_q_proj", "memory_k_proj", "memory_v_proj", "beta_proj"] {
                rows.push(matrix(part)?);
            }
            let mut lambda_bias = None;
            if delta.uses_lambda() {
                rows.push(matrix("lambda_proj")?);
                lambda_bias = Some(vector("lambda_bias")?);
            }
            let mut corrections = [const { None }; 4];
            for &head in &delta.delta_heads {
                let matrix = matrix(&format!("delta_{}_proj", head.name()))?.transpose();
                let c = delta.alpha / delta.rank as f32;
                corrections[head as usize] = Some(match delta.delta_scale {
                    None => matrix * c,
                    Some(DeltaScale { max, per_head }) => {
                        let index = if per_head { head as usize } else { 0 };
                        let raw = vector("delta_scale_raw")?.narrow(0, index, 1);
                        matrix * (sigmoid(raw) * (c * max)).reshape([1, 1])
                    }
                });
            }
            layers[layer] = Some(AdapterLayer {
                rows: Tensor::cat(rows, 0).transpose(),
                beta_bias: vector("beta_bias")?,
                lambda_bias,
                corrections,
                o_norm: match delta.delta_o_rmsnorm_eps {
                    Some(eps) => Some((vector("delta_o_rmsnorm_weight")?, eps)),
                    None => None,
                },
            });
        }
        Ok(DeviceAdapter { leaves, layers })
    }
}
