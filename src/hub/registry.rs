//! The models that are known by name: `models/registry.json`, which the page reads too. Owns what a name
//! stands for; a revision or hash that is not known there is null, never a guess.

use super::HubError;
use super::name::HubName;
use serde::Deserialize;
use std::sync::LazyLock;

static REGISTRY: LazyLock<Registry> = LazyLock::new(|| {
    let text = include_str!("../../models/registry.json");
    let registry: Registry = serde_json::from_str(text).expect("models/registry.json is ours");
    assert_eq!(registry.format, 1, "models/registry.json");
    registry
});

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Registry {
    format: u32,
    models: Vec<KnownModel>,
}

/// A model of the registry.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct KnownModel {
    /// What the page calls it.
    pub id: String,
    /// What the program calls it.
    pub name: String,
    pub aliases: Vec<String>,
    pub is_built_in: bool,
    /// The recommended one first.
    pub sources: Vec<Source>,
    pub adapter: Option<KnownAdapter>,
}

/// A repository with a model's weights.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Source {
    pub format: Format,
    pub repo: String,
    /// A commit.
    pub revision: Option<String>,
    /// How matrices are best kept whose files do not say: `q4`.
    pub weights: Option<String>,
    /// About how much a download is.
    pub download_bytes: Option<u64>,
    /// What is known of its files; of GGUF files the recommended one is first.
    pub files: Vec<KnownFile>,
}

/// How a repository has the weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    Safetensors,
    Gguf,
}

/// A file whose bytes are known.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct KnownFile {
    pub name: String,
    pub size_bytes: u64,
    pub sha256: Option<String>,
}

/// A δ-mem adapter that was trained for a model.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct KnownAdapter {
    pub repo: String,
    /// A commit.
    pub revision: Option<String>,
    pub files: Vec<KnownFile>,
}

/// Every model of the registry.
pub fn known_models() -> &'static [KnownModel] {
    &REGISTRY.models
}

/// The model of a name, an alias or an id; capitals play no role.
pub fn known_model(name: &str) -> Option<&'static KnownModel> {
    known_models().iter().find(|model| {
        let mut names = [&model.name, &model.id].into_iter().chain(&model.aliases);
        names.any(|known| known.eq_ignore_ascii_case(name))
    })
}

/// What a name stands for.
#[derive(Debug, Clone)]
pub struct Target {
    /// `org/repo`
    pub repo: String,
    /// The revision that was asked for, or else the registry's.
    pub revision: Option<String>,
    /// True if only this revision will do: it was asked for, or the registry's name was.
    pub is_exact: bool,
    /// A file, or a part of its name.
    pub file: Option<String>,
    pub model: Option<&'static KnownModel>,
    pub source: Option<&'static Source>,
    /// What is known of files at `revision`.
    pub files: &'static [KnownFile],
}

impl Target {
    /// # Errors
    /// [`HubError::Name`] for a name that the registry does not have, or whose model is built in.
    pub fn new(name: &HubName) -> Result<Target, HubError> {
        if name.is_repo() {
            return Ok(Target::of_repo(name));
        }
        let bad = |reason: String| HubError::Name { name: name.to_string(), reason };
        let Some(model) = known_model(&name.base) else {
            let names: Vec<&str> = known_models().iter().map(|model| model.name.as_str()).collect();
            return Err(bad(format!("the registry has {}", names.join(", "))));
        };
        let format = match name.file.as_deref() {
            Some("gguf") => Some(Format::Gguf),
            Some("safetensors") => Some(Format::Safetensors),
            _ => None,
        };
        let has_format = |source: &&Source| match (format, &name.file) {
            (Some(format), _) => source.format == format,
            (None, Some(_)) => source.format == Format::Gguf,
            (None, None) => true,
        };
        let source = model.sources.iter().find(has_format).ok_or_else(|| match &name.file {
            _ if model.is_built_in => bad("it is built in: there is nothing to download".into()),
            file => bad(format!("the registry has no {}", file.as_deref().unwrap_or("source"))),
        })?;
        let file = name.file.clone().filter(|_| format.is_none());
        Ok(Target::of_source(model, source, file, name.revision.clone(), true))
    }

    fn of_repo(name: &HubName) -> Target {
        let with_source = known_models().iter().find_map(|model| {
            let source = model.sources.iter().find(|s| s.repo.eq_ignore_ascii_case(&name.base));
            source.map(|source| (model, source))
        });
        let (file, revision) = (name.file.clone(), name.revision.clone());
        match with_source {
            Some((model, source)) => Target::of_source(model, source, file, revision, false),
            None => Target {
                repo: name.base.clone(),
                is_exact: revision.is_some(),
                revision,
                file,
                model: None,
                source: None,
                files: &[],
            },
        }
    }

    fn of_source(
        model: &'static KnownModel,
        source: &'static Source,
        file: Option<String>,
        asked: Option<String>,
        is_exact: bool,
    ) -> Target {
        // what is known is known of the registry's revision, or, where it has none, of the newest
        let is_known = asked.is_none() || asked == source.revision;
        let recommended = match source.format {
            Format::Gguf => source.files.first().map(|file| file.name.clone()),
            Format::Safetensors => None,
        };
        Target {
            repo: source.repo.clone(),
            is_exact: is_exact || asked.is_some(),
            revision: asked.or_else(|| source.revision.clone()),
            file: file.or(recommended),
            model: Some(model),
            source: Some(source),
            files: if is_known { &source.files } else { &[] },
        }
    }

    /// The adapter that was trained for this model.
    pub fn adapter(&self) -> Option<Target> {
        let adapter = self.model?.adapter.as_ref()?;
        Some(Target {
            repo: adapter.repo.clone(),
            revision: adapter.revision.clone(),
            is_exact: adapter.revision.is_some(),
            file: None,
            model: None,
            source: None,
            files: &adapter.files,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::name::{is_commit, is_repo_id, is_sha256};
    use super::*;

    fn target(name: &str) -> Target {
        Target::new(&HubName::parse(name).unwrap()).unwrap()
    }

    #[test]
    fn the_registry_is_in_order() {
        let mut names = std::collections::BTreeSet::new();
        for model in known_models() {
            for name in [&model.id, &model.name].into_iter().chain(&model.aliases) {
                assert!(HubName::parse(name).is_ok_and(|name| !name.is_repo()), "{name}");
            }
            assert!(
                names.insert(model.id.to_lowercase()) && names.insert(model.name.clone())
                    || model.id == model.name
            );
            assert_eq!(model.is_built_in, model.sources.is_empty(), "{}", model.name);
            let adapter = model.adapter.iter().map(|a| (&a.repo, &a.revision, &a.files));
            let sources = model.sources.iter().map(|s| (&s.repo, &s.revision, &s.files));
            for (repo, revision, files) in sources.chain(adapter) {
                assert!(is_repo_id(repo), "{repo}");
                assert!(revision.as_deref().is_none_or(is_commit), "{repo}");
                for file in files {
                    assert!(file.sha256.as_deref().is_none_or(is_sha256), "{}", file.name);
                }
            }
            for source in &model.sources {
                let is_known = |name: &str| ["f32", "f16", "q8", "q4"].contains(&name);
                assert!(source.weights.as_deref().is_none_or(is_known));
                assert_ne!(source.weights.is_some(), source.format == Format::Gguf);
            }
        }
    }

    #[test]
    fn names_stand_for_repositories() {
        let smol = target("smollm3-3b");
        assert_eq!(smol.repo, "ggml-org/SmolLM3-3B-GGUF");
        assert_eq!(smol.file.as_deref(), Some("SmolLM3-Q4_K_M.gguf"));
        assert!(smol.adapter().is_none() && smol.files[0].sha256.is_some());
        let whole = target("SmolLM3-3B:safetensors");
        assert_eq!(whole.repo, "HuggingFaceTB/SmolLM3-3B");
        assert_eq!(whole.revision.as_deref(), Some("a07cc9a04f16550a088caea529712d1d335b0ac1"));
        assert_eq!(target("SmolLM3-3B:Q8_0").file.as_deref(), Some("Q8_0"));
        let qwen = target("Qwen3-4B-Instruct");
        assert_eq!(qwen.adapter().unwrap().repo, "declare-lab/delta-mem_qwen3_4b-instruct");
        assert_eq!(target("Qwen/Qwen3-4B-Instruct-2507").revision, qwen.revision);
        let newest = target("HuggingFaceTB/SmolLM3-3B@main");
        assert_eq!((newest.revision.as_deref(), newest.files.len()), (Some("main"), 0));
        let other = target("a/b:c.gguf@d");
        assert_eq!((other.repo.as_str(), other.model.is_none()), ("a/b", true));
        for bad in ["no-such-model", "nano", "Qwen3-4B-Instruct:Q4_K_M"] {
            let error = Target::new(&HubName::parse(bad).unwrap()).unwrap_err();
            assert_eq!(error.code(), "hub_name", "{bad}");
        }
    }
}
