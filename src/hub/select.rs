//! Which files of a repository make a model. Owns the choice among them, for repositories on a hub and
//! for snapshots in the cache alike: both are lists of names.

use super::HubError;
use crate::weights::gguf::shard_of;

const CONFIG: &str = "config.json";
const WEIGHTS: &str = "model.safetensors";
pub(super) const INDEX: &str = "model.safetensors.index.json";
pub(super) const ADAPTER_CONFIG: &str = "delta_mem_config.json";
const ADAPTER_WEIGHTS: [&str; 2] = ["delta_mem_adapter.safetensors", "delta_mem_adapter.pt"];
/// What a model may have beside its weights; see [`crate::model_folder::ModelFolder::open`].
const BESIDE: [&str; 5] = [
    CONFIG,
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
];

/// What a selection is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Selection {
    pub kind: Kind,
    /// Names of files, those first that a path to the model leads to.
    pub names: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A folder with config.json and safetensors files.
    Folder,
    /// A GGUF file, or the shards of one.
    Gguf,
    /// A δ-mem adapter.
    Adapter,
    /// A file that was asked for by name and is none of these.
    File,
}

/// Chooses among `names`: the files of `wanted`, or else the one model that there is. `host` is where
/// `wanted` is not.
///
/// # Errors
/// [`HubError::Choose`] if there are several, [`HubError::NotFound`] if there is none.
pub(super) fn select(
    repo: &str,
    names: &[&str],
    wanted: Option<&str>,
    host: &str,
) -> Result<Selection, HubError> {
    let has = |name: &str| names.contains(&name);
    let gguf = |names: Vec<String>| Selection { kind: Kind::Gguf, names };
    if let Some(wanted) = wanted {
        let mut named = named(names, wanted);
        return match named.len() {
            1 => {
                let chosen = named.remove(0);
                let kind = if is_gguf_model(&chosen[0]) { Kind::Gguf } else { Kind::File };
                Ok(with_adapter(Selection { kind, names: chosen }, names))
            }
            0 => {
                let groups = gguf_groups(names);
                let reason = match groups.is_empty() {
                    true => "the repository has no such file".into(),
                    false => format!("the repository has {}", choices(&groups)),
                };
                let what = format!("{repo}:{wanted}");
                Err(HubError::NotFound { what, host: host.into(), reason })
            }
            _ => Err(choose(repo, &named)),
        };
    }
    let groups = gguf_groups(names);
    if has(CONFIG) && (has(WEIGHTS) || has(INDEX)) {
        let mut chosen: Vec<&str> = BESIDE.into_iter().filter(|name| has(name)).collect();
        match has(WEIGHTS) {
            true => chosen.push(WEIGHTS),
            false => {
                chosen.push(INDEX);
                chosen.extend(names.iter().filter(|name| is_shard(name)));
            }
        }
        let names_of = chosen.into_iter().map(String::from).collect();
        return Ok(with_adapter(Selection { kind: Kind::Folder, names: names_of }, names));
    }
    match &groups[..] {
        [group] => Ok(with_adapter(gguf(group.clone()), names)),
        [] if has(ADAPTER_CONFIG) => {
            Ok(with_adapter(Selection { kind: Kind::Adapter, names: Vec::new() }, names))
        }
        [] => Err(HubError::NotFound {
            what: format!("a model in {repo}"),
            host: host.into(),
            reason:
                "it has neither config.json with safetensors files, nor a GGUF file, nor a δ-mem \
                     adapter"
                    .into(),
        }),
        _ => Err(choose(repo, &groups)),
    }
}

/// With the adapter that lies beside a model, in the format that is preferred.
fn with_adapter(mut selection: Selection, names: &[&str]) -> Selection {
    if selection.kind == Kind::File {
        return selection;
    }
    let weights = ADAPTER_WEIGHTS.into_iter().find(|name| names.contains(name));
    if let (true, Some(weights)) = (names.contains(&ADAPTER_CONFIG), weights) {
        selection.names.extend([ADAPTER_CONFIG.to_string(), weights.to_string()]);
    }
    selection
}

pub(super) fn choose(repo: &str, groups: &[Vec<String>]) -> HubError {
    HubError::Choose { repo: repo.into(), choices: choices(groups) }
}

fn choices(groups: &[Vec<String>]) -> String {
    groups.iter().map(|group| group[0].as_str()).collect::<Vec<_>>().join(", ")
}

/// Projectors of images and statistics for quantisation are GGUF files, too, but no models.
fn is_gguf_model(name: &str) -> bool {
    let name = name.to_lowercase();
    name.ends_with(".gguf") && !name.contains("mmproj") && !name.contains("imatrix")
}

/// The GGUF models among files, each with its shards in order.
fn gguf_groups(names: &[&str]) -> Vec<Vec<String>> {
    let mut groups: Vec<Vec<String>> = Vec::new();
    let mut sorted = names.to_vec();
    sorted.sort_unstable();
    sorted.dedup();
    for name in sorted {
        if !is_gguf_model(name) {
            continue;
        }
        let is_mate = |other: &str| shard_of(name).is_some() && shard_of(name) == shard_of(other);
        match groups.iter_mut().find(|group| is_mate(&group[0])) {
            Some(group) => group.push(name.into()),
            None => groups.push(vec![name.into()]),
        }
    }
    groups
}

/// What a file's name, or a part of one, can mean: GGUF models with their shards, or a single file.
pub(super) fn named(names: &[&str], wanted: &str) -> Vec<Vec<String>> {
    let mut groups = gguf_groups(names);
    if let Some(i) = groups.iter().position(|group| group.iter().any(|name| name == wanted)) {
        return vec![groups.swap_remove(i)];
    }
    if names.contains(&wanted) {
        return vec![vec![wanted.into()]];
    }
    groups.retain(|group| has_word(&group[0], wanted));
    groups
}

/// True if `word` stands in a file's name between signs that part words, as `Q4_K_M` does.
fn has_word(name: &str, word: &str) -> bool {
    let is_part = |c: char| !c.is_ascii_alphanumeric() && c != '_';
    name.split(is_part).any(|part| part.eq_ignore_ascii_case(word))
}

/// `model-00001-of-00002.safetensors`
fn is_shard(name: &str) -> bool {
    let numbers = name.strip_prefix("model-").and_then(|rest| rest.strip_suffix(".safetensors"));
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let parts = numbers.and_then(|numbers| numbers.split_once("-of-"));
    parts.is_some_and(|(n, of)| is_number(n) && is_number(of))
}

/// Names that belong to a selection and are not in `names`. `index` is `model.safetensors.index.json`,
/// if it is here.
pub(super) fn missing(selection: &Selection, names: &[&str], index: Option<&[u8]>) -> Vec<String> {
    let has = |name: &str| names.contains(&name);
    match selection.kind {
        Kind::Gguf => {
            let first = &selection.names[0];
            let Some((stem, count)) = shard_of(first) else { return Vec::new() };
            let all = (1..=count).map(|i| format!("{stem}-{i:05}-of-{count:05}.gguf"));
            all.filter(|name| !has(name)).collect()
        }
        Kind::Folder if has(INDEX) => {
            let shards = index.and_then(shards_of).unwrap_or_default();
            shards.into_iter().filter(|name| !has(name)).collect()
        }
        Kind::Adapter if selection.names.is_empty() => vec![ADAPTER_WEIGHTS[0].into()],
        _ => Vec::new(),
    }
}

/// What the files of a snapshot are, for people, and what a model among them lacks.
pub(super) fn state(names: &[&str], index: Option<&[u8]>) -> (Option<&'static str>, Vec<String>) {
    let groups = gguf_groups(names);
    match select("", names, None, "") {
        Ok(selection) => {
            let kind = match selection.kind {
                Kind::Folder => "safetensors",
                Kind::Gguf => "gguf",
                Kind::Adapter => "adapter",
                Kind::File => "file",
            };
            (Some(kind), missing(&selection, names, index))
        }
        Err(HubError::Choose { .. }) => {
            let gguf =
                |shards| missing(&Selection { kind: Kind::Gguf, names: shards }, names, None);
            (Some("gguf"), groups.into_iter().flat_map(gguf).collect())
        }
        Err(_) => (None, Vec::new()),
    }
}

/// The files that an index names.
fn shards_of(index: &[u8]) -> Option<Vec<String>> {
    let index: serde_json::Value = serde_json::from_slice(index).ok()?;
    let names = index["weight_map"].as_object()?.values().filter_map(|name| name.as_str());
    let names: std::collections::BTreeSet<&str> = names.collect();
    Some(names.into_iter().map(String::from).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names_of(names: &[&str], wanted: Option<&str>) -> Result<Vec<String>, HubError> {
        select("a/b", names, wanted, "hub").map(|selection| selection.names)
    }

    #[test]
    fn a_safetensors_model_comes_without_other_formats() {
        let all = [
            ".gitattributes",
            "README.md",
            "config.json",
            "flax_model.msgpack",
            "generation_config.json",
            "model-00001-of-00002.safetensors",
            "model-00002-of-00002.safetensors",
            "model.safetensors.index.json",
            "onnx/model.onnx",
            "pytorch_model.bin",
            "tokenizer.json",
            "tokenizer_config.json",
            "training.safetensors",
        ];
        let chosen = names_of(&all, None).unwrap();
        let expected = [
            "config.json",
            "generation_config.json",
            "tokenizer.json",
            "tokenizer_config.json",
            "model.safetensors.index.json",
            "model-00001-of-00002.safetensors",
            "model-00002-of-00002.safetensors",
        ];
        assert_eq!(chosen, expected);
        let both = ["config.json", "model.safetensors", "model.safetensors.index.json", "x.gguf"];
        assert_eq!(names_of(&both, None).unwrap(), ["config.json", "model.safetensors"]);
        assert_eq!(names_of(&both, Some("x.gguf")).unwrap(), ["x.gguf"]);
        assert_eq!(names_of(&all, Some("README.md")).unwrap(), ["README.md"]);
    }

    #[test]
    fn one_of_several_gguf_files_must_be_named() {
        let all = ["M-Q4_K_M.gguf", "M-Q4_K_S.gguf", "README.md", "mmproj-M-f16.gguf"];
        assert_eq!(names_of(&all, None).unwrap_err().code(), "choose_file");
        assert_eq!(names_of(&all, Some("q4_k_m")).unwrap(), ["M-Q4_K_M.gguf"]);
        assert_eq!(names_of(&all, Some("M")).unwrap_err().code(), "choose_file");
        let error = names_of(&all, Some("Q8_0")).unwrap_err();
        assert!(error.to_string().contains("M-Q4_K_S.gguf"), "{error}");
        assert_eq!(names_of(&all[..1], None).unwrap(), ["M-Q4_K_M.gguf"]);
        assert_eq!(names_of(&["pytorch_model.bin"], None).unwrap_err().code(), "not_found");
    }

    #[test]
    fn shards_come_together() {
        let all = ["q/M-00002-of-00002.gguf", "q/M-00001-of-00002.gguf", "N-00001-of-00001.gguf"];
        let shards = names_of(&all, Some("q/M-00002-of-00002.gguf")).unwrap();
        assert_eq!(shards, ["q/M-00001-of-00002.gguf", "q/M-00002-of-00002.gguf"]);
        let selection = select("a/b", &all[..1], None, "hub").unwrap();
        assert_eq!(missing(&selection, &all[..1], None), ["q/M-00001-of-00002.gguf"]);
        assert!(missing(&selection, &all, None).is_empty());
    }

    #[test]
    fn an_index_says_which_shards_are_missing() {
        let names = ["config.json", INDEX, "model-00001-of-00002.safetensors"];
        let selection = select("a/b", &names, None, "hub").unwrap();
        let index = br#"{"weight_map": {"x": "model-00001-of-00002.safetensors", "y": "other"}}"#;
        assert_eq!(missing(&selection, &names, Some(index)), ["other"]);
    }

    #[test]
    fn adapters_come_alone_or_beside() {
        let adapter = ["README.md", "delta_mem_adapter.pt", "delta_mem_config.json"];
        let selection = select("a/b", &adapter, None, "hub").unwrap();
        assert_eq!(selection.kind, Kind::Adapter);
        assert_eq!(selection.names, ["delta_mem_config.json", "delta_mem_adapter.pt"]);
        let beside = ["x.gguf", "delta_mem_config.json", "delta_mem_adapter.safetensors"];
        assert_eq!(names_of(&beside, None).unwrap().len(), 3);
    }
}
