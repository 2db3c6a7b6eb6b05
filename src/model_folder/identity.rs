//! Names for a backbone and an adapter by their content, for memory files. Owns what enters the
//! hashes; changing it makes saved memories refuse their model, so each has a version.

use crate::config::{DeltaConfig, ModelConfig};
use crate::error::{Error, Result};
use crate::weights::TensorSource;
use sha2::{Digest, Sha256};

/// Elements taken from either end of a tensor for the fingerprint.
const SAMPLE: usize = 1024;
/// Elements of an adapter tensor read at once.
const PIECE: usize = 1 << 16;

/// A backbone's identity, 64 hexadecimal digits: SHA-256 over the dimensions that enter the forward
/// pass, the names and shapes of its tensors, and the first and last 1,024 elements of each as f32.
///
/// It is a fingerprint, not a checksum: it reads at most 8 KiB a tensor, so that identifying a
/// model of gigabytes takes no time, and it does not see a change in the middle of a large tensor.
/// The stored type, order and sharding of the files do not matter, as long as the values agree.
///
/// # Errors
/// [`Error::MissingTensor`], [`Error::TensorShape`], or what reading gives.
pub fn fingerprint(config: &ModelConfig, tensors: &dyn TensorSource) -> Result<String> {
    let c = config;
    let mut hash = Sha256::new();
    hash.update(format!(
        "deltamem backbone 1\n{} h{} i{} l{} q{} kv{} d{} v{} eps{:08x} theta{:08x} rope{:?} tied{}\n",
        c.architecture.name(),
        c.hidden_size,
        c.intermediate_size,
        c.n_layers,
        c.n_heads,
        c.n_kv_heads,
        c.head_dim,
        c.vocab_size,
        c.rms_norm_eps.to_bits(),
        c.rope_theta.to_bits(),
        c.use_rope,
        c.tie_word_embeddings,
    ));
    if let Some(yarn) = &c.rope_scaling {
        hash.update(format!("{yarn:?}\n"));
    }
    let mut shapes = config.tensor_shapes();
    shapes.sort();
    let mut values = vec![0.0; 2 * SAMPLE];
    for (name, shape) in shapes {
        tensors.check_shape(&name, &shape)?;
        add_heading(&mut hash, &name, &shape);
        let n: usize = shape.iter().product();
        if n <= values.len() {
            tensors.read_f32(&name, 0, &mut values[..n])?;
            add_values(&mut hash, &values[..n]);
        } else {
            let (first, last) = values.split_at_mut(SAMPLE);
            tensors.read_f32(&name, 0, first)?;
            tensors.read_f32(&name, n - SAMPLE, last)?;
            add_values(&mut hash, &values);
        }
    }
    Ok(hexadecimal(hash))
}

/// An adapter's identity, 64 hexadecimal digits: SHA-256 over the configuration as it acts on this
/// backbone and all tensors by name as f32, so that one adapter's `.pt` and `.safetensors` agree.
///
/// # Errors
/// [`Error::Format`] for a value that is not finite; [`Error::MissingTensor`],
/// [`Error::TensorShape`], [`Error::Config`], or what reading gives.
pub fn adapter_hash(
    config: &DeltaConfig,
    model: &ModelConfig,
    tensors: &dyn TensorSource,
) -> Result<String> {
    let c = config;
    let mut hash = Sha256::new();
    hash.update(format!(
        "deltamem adapter 1\nr{} alpha{:08x} normalize{} couple{} {} rankwise{} heads{} {} layers{:?} \
         delta-{} rmsnorm{:?} scale{:?}\n",
        c.rank,
        c.alpha.to_bits(),
        c.normalize_qk,
        c.couple_lambda,
        c.state_update_mode.name(),
        c.rankwise_gates,
        c.num_state_heads,
        c.write_granularity.name(),
        c.wrapped_layers(model)?,
        c.delta_heads.iter().map(|h| h.name()).collect::<String>(),
        c.delta_o_rmsnorm_eps.map(f32::to_bits),
        c.delta_scale.map(|s| (s.max.to_bits(), s.per_head)),
    ));
    let mut shapes = config.tensor_shapes(model)?;
    shapes.sort();
    let mut piece = vec![0.0; PIECE];
    for (name, shape) in shapes {
        tensors.check_shape(&name, &shape)?;
        add_heading(&mut hash, &name, &shape);
        let n: usize = shape.iter().product();
        for start in (0..n).step_by(PIECE) {
            let values = &mut piece[..PIECE.min(n - start)];
            tensors.read_f32(&name, start, values)?;
            if let Some(i) = values.iter().position(|x| !x.is_finite()) {
                return Err(Error::format(
                    tensors.label(),
                    "adapter",
                    format!("tensor `{name}`: element {} is {}", start + i, values[i]),
                ));
            }
            add_values(&mut hash, values);
        }
    }
    Ok(hexadecimal(hash))
}

fn add_heading(hash: &mut Sha256, name: &str, shape: &[usize]) {
    hash.update(format!("{name} {shape:?}\n"));
}

fn add_values(hash: &mut Sha256, values: &[f32]) {
    let mut bytes = [0; 4096];
    for values in values.chunks(bytes.len() / 4) {
        for (out, x) in bytes.chunks_exact_mut(4).zip(values) {
            out.copy_from_slice(&x.to_le_bytes());
        }
        hash.update(&bytes[..4 * values.len()]);
    }
}

fn hexadecimal(hash: Sha256) -> String {
    let digits = hash.finalize();
    digits.iter().map(|byte| format!("{byte:02x}")).collect()
}
