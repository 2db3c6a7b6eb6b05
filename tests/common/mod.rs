//! What the integration tests share: the recorded fixtures, a model of noise and a device.
#![allow(dead_code, reason = "not every test uses everything")]

use deltamem::gpu::{Gpu, GpuOptions};
use deltamem::model_folder::{Adapter, ModelFolder};
use deltamem::replay::ReplayReport;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// Every folder of fixtures whose name `is_wanted`, by name; never none. `DELTAMEM_FIXTURES` may
/// name another parent folder.
pub fn fixtures(is_wanted: impl Fn(&str) -> bool) -> Vec<PathBuf> {
    let root = std::env::var_os("DELTAMEM_FIXTURES").map_or_else(
        || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures"),
        PathBuf::from,
    );
    let entries = std::fs::read_dir(&root).expect("the folder of fixtures");
    let mut folders: Vec<PathBuf> = entries
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.join("case.json").exists())
        .filter(|path| is_wanted(&path.file_name().unwrap_or_default().to_string_lossy()))
        .collect();
    folders.sort();
    assert!(!folders.is_empty(), "no fixtures in {}", root.display());
    folders
}

/// The folder of a small model whose weights are random: its replies are long, never the same for two
/// seeds, and stay as they are when the built-in model is trained anew.
pub fn noise() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/noise")
}

/// The same model, whose replies end with a token that it all but never draws: for tests that have to reach
/// a reply while it is made. Made once for each test program.
pub fn endless() -> PathBuf {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    let make = || {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(std::process::id().to_string());
        std::fs::create_dir_all(&folder).expect("a folder");
        for entry in std::fs::read_dir(noise()).expect("the model of noise") {
            let path = entry.expect("an entry").path();
            let name = path.file_name().expect("a name");
            if path.is_file() {
                std::fs::copy(&path, folder.join(name)).expect("a copy");
            }
        }
        for name in ["config.json", "generation_config.json"] {
            let path = folder.join(name);
            let text = std::fs::read_to_string(&path).expect("a file");
            let mut config: serde_json::Value = serde_json::from_str(&text).expect("JSON");
            config["eos_token_id"] = serde_json::json!([1274]); // <|begin_of_text|>
            std::fs::write(&path, config.to_string()).expect("a file");
        }
        folder
    };
    FOLDER.get_or_init(make).clone()
}

/// The model of [`noise`] as it is.
pub fn noise_model() -> (ModelFolder, Adapter) {
    noise_with("", "")
}

/// The model of [`noise`], with `from` replaced by `to` in its adapter's configuration.
pub fn noise_with(from: &str, to: &str) -> (ModelFolder, Adapter) {
    let path = noise();
    let folder = ModelFolder::open(&path).expect("the model of noise");
    let config = std::fs::read_to_string(path.join("delta_mem_config.json")).expect("a file");
    let adapter = std::fs::read(path.join("delta_mem_adapter.safetensors")).expect("a file");
    let config = config.replace(from, to);
    let label = "adapter.safetensors";
    let adapter = Adapter::from_bytes(config.as_bytes(), adapter, label, &folder.config);
    (folder, adapter.expect("an adapter"))
}

/// An open device, or `None` where the machine has no adapter. A missing adapter is a failure if
/// `DELTAMEM_REQUIRE_GPU` is set, as it is in CI: a test must never pass for want of a device.
pub fn gpu(base_tier: bool) -> Option<Gpu> {
    let options = GpuOptions { base_tier, ..GpuOptions::default() };
    match pollster::block_on(Gpu::open(&options)) {
        Ok(gpu) => Some(gpu),
        Err(e) if std::env::var_os("DELTAMEM_REQUIRE_GPU").is_some() => panic!("{e}"),
        Err(e) => {
            eprintln!("IGNORED, nothing was tested: {e}");
            None
        }
    }
}

/// Replays all, prints a line for each, and only then fails.
pub fn assert_all_pass(folders: &[PathBuf], replay: impl Fn(&Path) -> ReplayReport) {
    let mut failed = Vec::new();
    for folder in folders {
        let report = replay(folder);
        println!("{}", serde_json::to_string(&report).expect("JSON"));
        assert_eq!(report.tolerance, 1e-4, "{}", report.name);
        assert!(report.logits.is_some(), "{}: nothing compared", report.name);
        if !report.passed || !report.notes.is_empty() {
            failed.push(report);
        }
    }
    assert!(failed.is_empty(), "{failed:#?}");
}
