//! What `rope_scaling` (hub files) and `rope_parameters` (transformers 5) say: YaRN or nothing.

use super::Keys;
use crate::error::Result;
use serde_json::{Map, Value};

/// Rotary angles stretched by YaRN (arXiv:2309.00071): fast pairs turn as before, slow ones `factor`
/// times slower, those between by a ramp.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Yarn {
    /// Stretched positions over trained ones.
    pub factor: f64,
    /// Positions that the backbone was trained for.
    pub original_positions: usize,
    /// What cos and sin are multiplied by.
    pub attention_factor: f64,
    /// Turns within the trained positions from which on a pair is left as it is.
    pub beta_fast: f64,
    /// Turns within the trained positions up to which a pair is slowed down entirely.
    pub beta_slow: f64,
    /// Whether the ramp begins and ends at whole pairs.
    pub truncate: bool,
}

/// What cos and sin are multiplied by if nothing else is said.
pub(crate) fn usual_attention_factor(factor: f64) -> f64 {
    magnitude(1.0, factor)
}

fn magnitude(scale: f64, factor: f64) -> f64 {
    0.1 * scale * factor.ln() + 1.0
}

impl Yarn {
    /// Positions that it stretches to.
    pub fn n_positions(&self) -> usize {
        (self.original_positions as f64 * self.factor) as usize
    }
}

impl Keys<'_> {
    /// The scaling of RoPE, `None` if there is none; `trained` positions unless it says otherwise.
    pub(super) fn rope_scaling(&self, trained: usize) -> Result<Option<Yarn>> {
        let mut found = None;
        for key in ["rope_scaling", "rope_parameters"] {
            let Some(value) = self.get(key) else { continue };
            let Value::Object(map) = value else {
                return Err(self.error(key, format!("expected an object, found {value}")));
            };
            let kind = map.get("rope_type").or_else(|| map.get("type"));
            match kind.filter(|kind| !kind.is_null() && *kind != "default") {
                None => {}
                Some(kind) if kind == "yarn" => found = Some(self.yarn(key, map, trained)?),
                Some(_) => {
                    return Err(
                        self.unsupported(key, "only unscaled RoPE and YaRN are implemented")
                    );
                }
            }
        }
        Ok(found)
    }

    fn yarn(&self, key: &str, map: &Map<String, Value>, trained: usize) -> Result<Yarn> {
        let number = |name: &str, range: std::ops::RangeInclusive<f64>| match map.get(name) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => match value.as_f64().filter(|x| range.contains(x)) {
                Some(x) => Ok(Some(x)),
                None => {
                    let (low, high) = (range.start(), range.end());
                    let expected = format!("{name}: expected {low} to {high}, found {value}");
                    Err(self.error(key, expected))
                }
            },
        };
        let factor =
            number("factor", 1.0..=1024.0)?.ok_or_else(|| self.error(key, "factor: missing"))?;
        let original = number("original_max_position_embeddings", 1.0..=16_777_216.0)?;
        let attention_factor = match number("attention_factor", 0.01..=100.0)? {
            Some(given) => given,
            None => {
                let scales =
                    (number("mscale", 0.0..=100.0)?, number("mscale_all_dim", 0.0..=100.0)?);
                match scales {
                    (Some(a), Some(b)) if a != 0.0 && b != 0.0 => {
                        magnitude(a, factor) / magnitude(b, factor)
                    }
                    _ => usual_attention_factor(factor),
                }
            }
        };
        let truncate = match map.get("truncate") {
            None | Some(Value::Null) => true,
            Some(Value::Bool(truncate)) => *truncate,
            Some(value) => {
                let expected = format!("truncate: expected true or false, found {value}");
                return Err(self.error(key, expected));
            }
        };
        Ok(Yarn {
            factor,
            original_positions: original.map_or(trained, |n| n as usize),
            attention_factor,
            beta_fast: number("beta_fast", 1e-3..=1e6)?.unwrap_or(32.0),
            beta_slow: number("beta_slow", 1e-3..=1e6)?.unwrap_or(1.0),
            truncate,
        })
    }
}
