//! The ways in which a memory is written, as measurements tell them apart, and adapters that nobody
//! trained, so that a bare backbone can be measured with each.

use crate::config::{DeltaConfig, ModelConfig, WriteGranularity};
use crate::error::Result;
use crate::weights::recipe::{Exceptions, RecipeSource};

/// Which δ-mem a measurement has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum WriteMode {
    /// The bare backbone.
    Off,
    /// Every token writes.
    Tsw,
    /// Every token writes several states.
    Msw,
    /// A message, or a sentence, writes once.
    Ssw,
}

/// Seed of generated adapters.
const SEED: u64 = 1;

impl WriteMode {
    /// All of them; the bare backbone, which the others are compared with, first.
    pub const ALL: [WriteMode; 4] =
        [WriteMode::Off, WriteMode::Tsw, WriteMode::Msw, WriteMode::Ssw];

    /// As on the command line and in reports.
    pub fn name(self) -> &'static str {
        ["off", "tsw", "msw", "ssw"][self as usize]
    }

    /// The mode of a name.
    pub fn from_name(name: &str) -> Option<WriteMode> {
        WriteMode::ALL.into_iter().find(|mode| mode.name() == name)
    }

    /// What an adapter does.
    pub fn of(config: &DeltaConfig) -> WriteMode {
        match (config.write_granularity, config.num_state_heads) {
            (WriteGranularity::Token, 1) => WriteMode::Tsw,
            (WriteGranularity::Token, _) => WriteMode::Msw,
            _ => WriteMode::Ssw,
        }
    }

    /// The structure of the published adapters (rank 8, α 16, q and o) in this mode, four states if it
    /// has several, with the recipe's weights in bf16, as adapters are saved; `None` for the bare backbone.
    ///
    /// # Errors
    /// None for a backbone that has layers.
    pub fn generated(self, model: &ModelConfig) -> Result<Option<(DeltaConfig, RecipeSource)>> {
        let (granularity, heads) = match self {
            WriteMode::Off => return Ok(None),
            WriteMode::Tsw => ("token", 1),
            WriteMode::Msw => ("token", 4),
            WriteMode::Ssw => ("message_mean", 1),
        };
        let config = format!(
            r#"{{"rank": 8, "alpha": 16, "delta_heads": ["q", "o"], "num_state_heads": {heads},
                "memory_write_granularity": "{granularity}"}}"#
        );
        let config = DeltaConfig::from_json(config.as_bytes(), "delta_mem_config.json")?;
        let tensors = RecipeSource::adapter(model, &config, SEED)?
            .with_exceptions(Exceptions { is_bf16: true, ..Exceptions::default() });
        Ok(Some((config, tensors)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::footprint::SMOLLM3_3B;

    #[test]
    fn generated_adapters_are_of_their_mode_and_fit() {
        let model = ModelConfig::from_json(SMOLLM3_3B, "config.json").unwrap();
        for mode in WriteMode::ALL {
            assert_eq!(WriteMode::from_name(mode.name()), Some(mode));
            let made = mode.generated(&model).unwrap();
            assert_eq!(made.is_none(), mode == WriteMode::Off);
            let Some((config, tensors)) = made else { continue };
            assert_eq!(WriteMode::of(&config), mode);
            crate::model_folder::Adapter::new(config, Box::new(tensors), &model).unwrap();
        }
        assert_eq!(WriteMode::from_name("on"), None);
    }
}
