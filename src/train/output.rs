//! The files of a trained adapter (SPEC.md sections 5 and 6): `delta_mem_config.json`, and the tensors
//! as `delta_mem_adapter.safetensors` for us and as `delta_mem_adapter.pt` for the reference.

use super::adapter::AdapterParameters;
use super::torch_file::torch_bytes;
use crate::config::{DeltaConfig, DeltaHead};
use crate::error::{Error, Result};
use crate::weights::TensorSource;
use safetensors::tensor::{Dtype, TensorView};
use serde_json::{Value, json};
use std::fs;
use std::path::Path;

/// Writes the three files into `folder`, which is made if it is not there.
///
/// # Errors
/// [`Error::Io`]; [`Error::Unsupported`] for an adapter of 2 GiB or more.
pub fn write_adapter(
    folder: &Path,
    delta: &DeltaConfig,
    parameters: &AdapterParameters,
) -> Result<()> {
    fs::create_dir_all(folder).map_err(Error::io(folder))?;
    let config = format!("{:#}\n", config_json(delta));
    write_whole(&folder.join("delta_mem_config.json"), config.as_bytes())?;
    let tensors = (0..parameters.len()).map(|index| {
        let (name, shape) = parameters.describe(index);
        (name.to_string(), shape.to_vec(), parameters.values(index))
    });
    let path = folder.join("delta_mem_adapter.safetensors");
    let bytes = safetensors_bytes(tensors, parameters.label(), None)?;
    write_whole(&path, &bytes)?;
    let stem = "delta_mem_adapter";
    write_whole(&folder.join(format!("{stem}.pt")), &torch_bytes(parameters, stem)?)
}

/// The keys that have a meaning at inference; the reference takes its defaults for the others.
pub(super) fn config_json(delta: &DeltaConfig) -> Value {
    let mut json = json!({
        "rank": delta.rank,
        "alpha": delta.alpha,
        "normalize_qk": delta.normalize_qk,
        "couple_lambda": delta.couple_lambda,
        "state_update_mode": delta.state_update_mode.name(),
        "rankwise_gates": delta.rankwise_gates,
        "num_state_heads": delta.num_state_heads,
        "memory_write_granularity": delta.write_granularity.name(),
        "target_modules": ["self_attn"],
        "target_layers": delta.target_layers,
        "delta_heads": delta.delta_heads.iter().map(|h: &DeltaHead| h.name()).collect::<Vec<_>>(),
        "delta_o_rmsnorm": delta.delta_o_rmsnorm_eps.is_some(),
        "trainable_delta_scale": delta.delta_scale.is_some(),
    });
    if let Some(eps) = delta.delta_o_rmsnorm_eps {
        json["delta_o_rmsnorm_eps"] = shortest(eps);
    }
    if let Some(scale) = delta.delta_scale {
        json["delta_scale_max"] = shortest(scale.max);
        // Must lie below the maximum, although it only matters to a fresh adapter.
        json["delta_scale_init"] = shortest(scale.max / 2.0);
        json["delta_scale_granularity"] = if scale.per_head { "head" } else { "layer" }.into();
    }
    json["alpha"] = shortest(delta.alpha);
    json
}

/// The shortest decimal that reads back as this f32.
fn shortest(x: f32) -> Value {
    json!(x.to_string().parse::<f64>().unwrap_or(f64::from(x)))
}

/// A safetensors file of f32 tensors (name, shape, row-major values).
pub(super) fn safetensors_bytes<'a>(
    tensors: impl Iterator<Item = (String, Vec<usize>, &'a [f32])>,
    label: &str,
    metadata: Option<std::collections::HashMap<String, String>>,
) -> Result<Vec<u8>> {
    let bad = |e: safetensors::SafeTensorError| {
        Error::format(label, "set of tensors for safetensors", e.to_string())
    };
    let little_endian: Vec<(String, Vec<usize>, Vec<u8>)> = tensors
        .map(|(name, shape, values)| {
            (name, shape, values.iter().flat_map(|x| x.to_le_bytes()).collect())
        })
        .collect();
    let views: Result<Vec<(&str, TensorView)>> = little_endian
        .iter()
        .map(|(name, shape, bytes)| {
            Ok((name.as_str(), TensorView::new(Dtype::F32, shape.clone(), bytes).map_err(bad)?))
        })
        .collect();
    safetensors::serialize(views?, metadata).map_err(bad)
}

/// Writes beside, then renames: whoever reads sees the old file or the new one.
pub(super) fn write_whole(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(".tmp");
    let beside = Path::new(&beside);
    let write = || -> std::io::Result<()> {
        let mut file = fs::File::create(beside)?;
        std::io::Write::write_all(&mut file, bytes)?;
        file.sync_all()?;
        fs::rename(beside, path)
    };
    write().map_err(Error::io(path))
}
