//! What lies in the cache afterwards: the layout that other tools share, which files are chosen, how a
//! name becomes a path, what is listed and removed.

use super::mirror::{etag, sha256};
use super::{COMMIT, NEXT_COMMIT, Place, model_files, names, noise};
use deltamem::hub::{HubName, Removal, contents, find_adapter, find_model, known_model, pull};
use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};

const REPO: &str = "ada/model";

fn remove(place: &Place, name: &str) -> deltamem::Result<u64> {
    let plan = Removal::plan(&place.settings, &HubName::parse(name).expect("a name"))?;
    let freed = plan.iter().map(|removal| removal.size_bytes).sum();
    plan.into_iter().try_for_each(Removal::run)?;
    Ok(freed)
}

/// Bytes of regular files below a folder.
fn bytes_on_disk(folder: &std::path::Path) -> u64 {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let size = |entry: fs::DirEntry| match entry.file_type().expect("a type") {
        kind if kind.is_dir() => bytes_on_disk(&entry.path()),
        kind if kind.is_file() => entry.metadata().expect("a size").len(),
        _ => 0,
    };
    entries.map(size).sum()
}

#[test]
fn the_layout_is_that_of_other_tools() {
    let place = Place::new();
    let files = model_files(1);
    place.mirror.put(REPO, COMMIT, &files);
    let pulled = place.pull(REPO).expect("pulled");
    let repo = place.repo(REPO);
    let snapshot = repo.join("snapshots").join(COMMIT);
    assert_eq!((&pulled[0].path, pulled[0].commit.as_str()), (&snapshot, COMMIT));
    assert_eq!(names(&snapshot), ["config.json", "model.safetensors", "tokenizer.json"]);
    assert_eq!(names(&repo), ["blobs", "refs", "snapshots"]);
    assert_eq!(fs::read_to_string(repo.join("refs/main")).expect("a ref"), COMMIT);
    let weights = &files[2].1;
    let link = fs::read_link(snapshot.join("model.safetensors")).expect("a link");
    assert_eq!(link.to_str(), Some(format!("../../blobs/{}", sha256(weights)).as_str()));
    let config = fs::read_link(snapshot.join("config.json")).expect("a link");
    assert_eq!(config.file_name().and_then(|name| name.to_str()), Some(etag(b"{}").as_str()));
    assert_eq!(&fs::read(snapshot.join("model.safetensors")).expect("the file"), weights);
    // as Hugging Face's own crate finds it
    let cache = hf_hub::Cache::new(place.cache().into()).model(REPO.into());
    assert_eq!(cache.get("model.safetensors"), Some(snapshot.join("model.safetensors")));
    // and again, without a byte
    place.mirror.requests();
    let again = place.pull(REPO).expect("pulled");
    assert!(again[0].files.iter().all(|file| file.was_here) && again[0].files.len() == 3);
    assert!(place.mirror.requests().iter().all(|r| r.method == "HEAD" || r.path.contains("/api/")));
}

#[test]
fn one_gguf_file_of_many_with_its_shards() {
    let place = Place::new();
    let files = [
        ("deep er/M-Q8_0-00001-of-00002.gguf", noise(20_000, 2)),
        ("deep er/M-Q8_0-00002-of-00002.gguf", noise(20_001, 3)),
        ("M-Q4_K_M.gguf", noise(20_002, 4)),
        ("mmproj-M.gguf", noise(20_003, 5)),
    ];
    place.mirror.put(REPO, COMMIT, &files);
    let (code, message) = place.failure(REPO);
    assert_eq!(code, "choose_file");
    assert!(message.contains("M-Q4_K_M.gguf, deep er/M-Q8_0-00001"), "{message}");
    let pulled = place.pull(&format!("{REPO}:q8_0")).expect("pulled");
    assert_eq!(pulled[0].files.len(), 2);
    assert!(pulled[0].path.ends_with("deep er/M-Q8_0-00001-of-00002.gguf"));
    let link = fs::read_link(&pulled[0].path).expect("a link");
    assert_eq!(link.to_str(), Some(format!("../../../blobs/{}", sha256(&files[0].1)).as_str()));
    let found = find_model(&place.settings, REPO).expect("found").expect("a repository");
    assert_eq!((&found.path, found.name.as_str()), (&pulled[0].path, "M-Q8_0-00001-of-00002"));
    // a shard goes: the model is not whole
    fs::remove_file(pulled[0].path.with_file_name("M-Q8_0-00002-of-00002.gguf")).expect("removed");
    let error = find_model(&place.settings, REPO).expect_err("not whole");
    assert_eq!(error.code(), "not_downloaded");
    assert!(error.to_string().contains("deltamem pull ada/model"), "{error}");
    assert!(error.to_string().contains("M-Q8_0-00002-of-00002.gguf is missing"), "{error}");
    let listed = contents(place.cache()).expect("listed");
    assert_eq!(listed[0].revisions[0].missing, ["deep er/M-Q8_0-00002-of-00002.gguf"]);
}

#[test]
fn shards_of_an_index_are_all_fetched() {
    let place = Place::new();
    let index =
        br#"{"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "rest.safetensors"}}"#;
    let mut files = vec![
        ("config.json", b"{}".to_vec()),
        ("model.safetensors.index.json", index.to_vec()),
        ("model-00001-of-00002.safetensors", noise(20_000, 6)),
        ("rest.safetensors", noise(20_000, 7)),
        ("unrelated.safetensors", noise(20_000, 8)),
    ];
    place.mirror.put(REPO, COMMIT, &files);
    let pulled = place.pull(REPO).expect("pulled");
    assert_eq!(pulled[0].files.len(), 4);
    assert!(!names(&pulled[0].path).contains(&"unrelated.safetensors".to_string()));
    assert_eq!(find_model(&place.settings, REPO).expect("found").expect("one").name, "model");
    files.remove(3);
    place.mirror.put(REPO, NEXT_COMMIT, &files);
    let (code, message) = place.failure(REPO);
    assert!(code == "not_found" && message.contains("rest.safetensors"), "{message}");
}

#[test]
fn a_known_model_comes_with_its_adapter() {
    let place = Place::new();
    let known = known_model("Qwen3-4B-Instruct").expect("in the registry");
    let (source, adapter) = (&known.sources[0], known.adapter.as_ref().expect("an adapter"));
    let commit = |revision: &Option<String>| revision.clone().unwrap_or(COMMIT.into());
    place.mirror.put(&source.repo, &commit(&source.revision), &model_files(9));
    let files = [
        ("README.md", b"x".to_vec()),
        ("delta_mem_config.json", b"{}".to_vec()),
        ("delta_mem_adapter.pt", noise(20_000, 10)),
    ];
    let error = find_model(&place.settings, &known.name).expect_err("not here");
    assert_eq!(error.code(), "not_downloaded");
    assert!(error.to_string().contains("`deltamem pull Qwen3-4B-Instruct`"), "{error}");

    let name = HubName::parse(&known.name).expect("a name");
    let bare = pull(&place.settings, &name, false, &mut |_| {}).expect("pulled");
    assert_eq!(bare.len(), 1);
    let found = find_model(&place.settings, &known.name).expect("found").expect("known");
    assert_eq!(found.adapter, Some((known.name.clone(), None)));

    place.mirror.put(&adapter.repo, &commit(&adapter.revision), &files);
    let both = place.pull("qwen3-4b").expect("pulled");
    assert_eq!((both.len(), both[1].is_adapter, both[1].files.len()), (2, true, 2));
    for text in [known.name.as_str(), source.repo.as_str(), "qwen3-4b-instruct-2507"] {
        let found = find_model(&place.settings, text).expect("found").expect("known");
        assert_eq!(found.path, both[0].path);
        assert_eq!(found.name, "Qwen3-4B-Instruct-2507");
        assert_eq!(found.adapter, Some((text.to_string(), Some(both[1].path.clone()))));
    }
    let alone = find_adapter(&place.settings, &adapter.repo).expect("found");
    assert_eq!(alone.as_ref(), Some(&both[1].path));
    assert_eq!(find_adapter(&place.settings, &known.name).expect("found"), alone);
    assert_eq!(find_adapter(&place.settings, &source.repo).expect_err("none").code(), "not_found");
    assert_eq!(find_model(&place.settings, &adapter.repo).expect_err("none").code(), "not_found");
    assert_eq!(find_adapter(&place.settings, REPO).expect_err("not here").code(), "not_downloaded");

    // all of it goes under the one name
    remove(&place, &known.name).expect("removed");
    assert!(contents(place.cache()).expect("listed").is_empty());
    assert_eq!(bytes_on_disk(place.cache()), 0);
}

#[test]
fn the_registrys_hash_is_the_law() {
    let place = Place::new();
    let known = known_model("SmolLM3-3B").expect("in the registry");
    let source = &known.sources[0];
    let commit = source.revision.clone().unwrap_or(COMMIT.into());
    let name = source.files[0].name.as_str();
    place.mirror.put(&source.repo, &commit, &[(name, noise(50_000, 11)), ("x.gguf", noise(9, 1))]);
    let (code, message) = place.failure("SmolLM3-3B");
    assert_eq!(code, "wrong_hash");
    assert!(message.contains(source.files[0].sha256.as_deref().expect("a hash")), "{message}");
    // also where the hub says nothing about hashes
    place.mirror.put(&source.repo, &commit, &[(name, noise(500, 12))]);
    assert_eq!(place.failure("SmolLM3-3B").0, "wrong_hash");
    assert!(names(&place.repo(&source.repo).join("blobs")).is_empty());
    // and where it changes its mind in between
    place.mirror.put(&source.repo, &commit, &[(name, noise(50_000, 11))]);
    let is_asked = AtomicBool::new(false);
    let hash = source.files[0].sha256.clone().expect("a hash");
    place.mirror.meddle(move |request, response| {
        if request.path.starts_with("/api/") {
            response.body = String::from_utf8_lossy(&response.body)
                .replace(&sha256(&noise(50_000, 11)), &hash)
                .into_bytes();
        } else if request.method == "HEAD" && !is_asked.swap(true, Ordering::SeqCst) {
            response.set("x-linked-etag", &format!("\"{hash}\""));
        }
    });
    assert_eq!(place.failure("SmolLM3-3B").0, "wrong_hash");
    assert!(names(&place.repo(&source.repo).join("snapshots")).is_empty());
    place.mirror.behave();
    // another revision is another file
    place.mirror.put(&source.repo, NEXT_COMMIT, &[(name, noise(500, 12))]);
    assert_eq!(place.pull("SmolLM3-3B@main").expect("pulled").len(), 1);
    let error = find_model(&place.settings, "SmolLM3-3B").expect_err("another revision");
    assert!(error.to_string().contains(&commit), "{error}");
    assert!(find_model(&place.settings, "SmolLM3-3B@main").expect("found").is_some());
}

#[test]
fn offline_there_is_what_is_here() {
    let mut place = Place::new();
    place.mirror.put(REPO, COMMIT, &model_files(13));
    place.settings.is_offline = true;
    let (code, message) = place.failure(REPO);
    assert!(code == "offline" && message.contains("HF_HUB_OFFLINE"), "{message}");
    place.settings.is_offline = false;
    place.pull(REPO).expect("pulled");
    place.settings.is_offline = true;
    place.mirror.requests();
    let pulled = place.pull(REPO).expect("it is here");
    assert_eq!(pulled[0].commit, COMMIT);
    assert!(place.mirror.requests().is_empty());
}

#[test]
fn text_that_names_nothing_is_left_to_the_disk() {
    let place = Place::new();
    for text in ["", "./model", "../model", "/a/b", "models/a/b", "no-such-model", "a/b.gguf"] {
        assert_eq!(find_model(&place.settings, text).expect("no error"), None, "{text}");
    }
    let error = find_model(&place.settings, "ada/none").expect_err("a repository");
    assert!(error.to_string().contains("`deltamem pull ada/none`"), "{error}");
}

#[test]
fn only_bytes_that_nobody_else_needs_are_removed() {
    let place = Place::new();
    let mut files = model_files(14);
    place.mirror.put(REPO, COMMIT, &files);
    place.pull(REPO).expect("pulled");
    files[2].1 = noise(200_000, 15);
    place.mirror.put(REPO, NEXT_COMMIT, &files);
    place.pull(REPO).expect("pulled");
    let listed = contents(place.cache()).expect("listed");
    assert_eq!((listed.len(), listed[0].revisions.len()), (1, 2));
    assert_eq!(listed[0].size_bytes, 300_000 + 200_000 + 40_000 + 2);
    assert_eq!(listed[0].revisions[0].refs, [] as [&str; 0]);
    assert_eq!(listed[0].revisions[1].refs, ["main"]);
    assert!(
        listed[0].revisions.iter().all(|r| r.kind == Some("safetensors") && r.missing.is_empty())
    );

    // the older revision: its weights go, what both have stays
    assert_eq!(remove(&place, &format!("{REPO}@{COMMIT}")).expect("removed"), 300_000);
    let listed = contents(place.cache()).expect("listed");
    assert_eq!((listed[0].revisions.len(), listed[0].size_bytes), (1, 240_002));
    let found = find_model(&place.settings, REPO).expect("found").expect("one");
    assert_eq!(fs::read(found.path.join("model.safetensors")).expect("the file"), files[2].1);
    assert!(!place.repo(REPO).join("snapshots").join(COMMIT).exists());

    // a file
    assert_eq!(remove(&place, &format!("{REPO}:tokenizer.json")).expect("removed"), 40_000);
    assert_eq!(
        remove(&place, &format!("{REPO}:tokenizer.json")).expect_err("gone").code(),
        "not_found"
    );
    assert!(find_model(&place.settings, REPO).is_ok());
    // everything, with what was not whole
    let blobs = place.repo(REPO).join("blobs");
    fs::write(blobs.join("abc.incomplete"), [0; 1000]).expect("a file");
    assert_eq!(contents(place.cache()).expect("listed")[0].incomplete_bytes, 1000);
    let before = bytes_on_disk(place.cache());
    assert_eq!(remove(&place, REPO).expect("removed"), 200_002 + 1000);
    assert!(before >= 201_002 && bytes_on_disk(place.cache()) == 0);
    assert_eq!(remove(&place, REPO).expect_err("gone").code(), "not_found");
}

#[test]
fn links_of_strangers_are_removed_and_not_followed() {
    let place = Place::new();
    place.mirror.put(REPO, COMMIT, &model_files(16));
    let pulled = place.pull(REPO).expect("pulled");
    let precious = place.root().join("precious");
    fs::create_dir(&precious).expect("a folder");
    fs::write(precious.join("file"), "mine").expect("a file");
    let link = |target: &str, name: &str| {
        std::os::unix::fs::symlink(precious.join(target), pulled[0].path.join(name))
            .expect("a link");
    };
    link("file", "file.txt");
    link("", "folder");
    let listed = contents(place.cache()).expect("listed");
    let stranger = listed[0].revisions[0].files.iter().find(|file| file.name == "file.txt");
    assert_eq!(stranger.map(|file| file.blob.clone()), Some(None));
    remove(&place, &format!("{REPO}:file.txt")).expect("removed");
    remove(&place, REPO).expect("removed");
    assert_eq!(fs::read_to_string(precious.join("file")).expect("untouched"), "mine");
}

#[test]
fn nothing_is_removed_while_somebody_fetches() {
    let place = Place::new();
    place.mirror.put(REPO, COMMIT, &model_files(17));
    place.pull(REPO).expect("pulled");
    let locks = place.cache().join(".locks").join("models--ada--model");
    let lock = locks.join(&names(&locks)[0]);
    let held = fs::File::open(&lock).expect("the lock");
    held.lock().expect("held");
    assert_eq!(remove(&place, REPO).expect_err("in use").code(), "locked");
    assert_eq!(bytes_on_disk(&place.repo(REPO)), 340_002 + 40);
    drop(held);
    remove(&place, REPO).expect("removed");
}

#[test]
fn a_cache_that_is_not_there_is_empty() {
    let place = Place::new();
    assert!(contents(place.cache()).expect("listed").is_empty());
    fs::create_dir_all(place.cache().join("datasets--a--b")).expect("a folder");
    fs::create_dir_all(place.cache().join("models--..--b")).expect("a folder");
    fs::write(place.cache().join("models--a--file"), "").expect("a file");
    assert!(contents(place.cache()).expect("listed").is_empty());
}
