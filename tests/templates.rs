//! Renderings of chat templates against those that transformers made (templates/README.md). Owns the
//! comparison; the recordings are templates/record.py's.

use deltamem::chat::{
    ChatTemplate, CivilDate, Message, RenderOptions, ToolFormat, tool_descriptions,
};
use deltamem::tokenizer::Tokenizer;
use deltamem::tool_calls::ToolCallSplitter;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

#[derive(Deserialize)]
struct Recordings {
    date: String,
    templates: BTreeMap<String, Official>,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Official {
    sha256: String,
}

#[derive(Deserialize)]
struct Case {
    name: String,
    messages: Vec<Message>,
    options: Options,
    /// By template; null where it does not know the format of the tools.
    expected: BTreeMap<String, Option<Expected>>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct Options {
    enable_thinking: Option<bool>,
    prompt: bool,
    tools: Vec<Value>,
    tool_format: ToolFormat,
    variables: Map<String, Value>,
}

#[derive(Deserialize, Clone)]
#[serde(untagged)]
enum Expected {
    Same {
        same_as: String,
    },
    Text {
        /// With ⟦n⟧ for long passages of the official template.
        text: String,
        /// Of the whole rendering.
        sha256: String,
        /// What nano's tokenizer makes of the text, and the digest of its ids as little-endian u32.
        tokens: usize,
        tokens_sha256: String,
    },
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/templates")
}

fn recordings() -> Recordings {
    let text = std::fs::read(folder().join("recordings.json")).expect("recordings");
    serde_json::from_slice(&text).expect("recordings")
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn template(path: &Path) -> ChatTemplate {
    let source = std::fs::read_to_string(path).expect("a template");
    ChatTemplate::parse(&source, Some("<|begin_of_text|>"), Some("<|im_end|>")).expect("a template")
}

/// Renders every case and compares; `whole` says whether the official text is at hand.
fn check(
    recordings: &Recordings,
    name: &str,
    template: &ChatTemplate,
    extra: &Value,
    whole: bool,
) -> Vec<String> {
    let date: CivilDate = recordings.date.parse().expect("a date");
    let mut failures = Vec::new();
    for case in &recordings.cases {
        let given = &case.options;
        let mut options = RenderOptions::new(date);
        options.add_generation_prompt = given.prompt;
        options.enable_thinking = given.enable_thinking;
        if !given.tools.is_empty() {
            options.tools = Some(tool_descriptions(given.tools.clone()).expect("tools"));
        }
        options.tool_format = given.tool_format;
        options.extra = given.variables.clone();
        options.extra.extend(extra.as_object().cloned().unwrap_or_default());
        let rendered = template.render(&case.messages, &options);
        let mut expected = case.expected.get(name).expect("a recording").clone();
        while let Some(Expected::Same { same_as }) = &expected {
            expected = case.expected[same_as].clone();
        }
        let problem = match (rendered, expected) {
            (Err(error), None) if error.code() == "setting" => None,
            (Ok(text), Some(Expected::Text { sha256: expected, .. })) if whole => {
                (sha256(text.as_bytes()) != expected).then_some(text)
            }
            (Ok(text), Some(Expected::Text { text: expected, .. })) => {
                (text != expected).then(|| format!("{text}\n--- expected\n{expected}"))
            }
            (Ok(text), _) => Some(format!("no error but {text}")),
            (Err(error), _) => Some(error.to_string()),
        };
        failures.extend(problem.map(|shown| format!("{name}, {}:\n{shown}\n", case.name)));
    }
    failures
}

/// Our own templates always; the official ones too where `DELTAMEM_TEMPLATES` names a folder with them.
#[test]
fn renderings_are_those_of_transformers() {
    let recordings = recordings();
    let smollm3 = template(&folder().join("../../src/chat/smollm3_like.jinja"));
    let qwen3 = template(&folder().join("qwen3_like.jinja"));
    let mut failures = check(&recordings, "smollm3", &smollm3, &json!({}), false);
    failures.extend(check(&recordings, "qwen3", &qwen3, &json!({ "thinks": true }), false));
    failures.extend(check(
        &recordings,
        "qwen3_instruct",
        &qwen3,
        &json!({ "thinks": false }),
        false,
    ));
    if let Some(given) = std::env::var_os("DELTAMEM_TEMPLATES") {
        for (name, official) in &recordings.templates {
            let path = Path::new(&given).join(format!("{name}.jinja"));
            let bytes = std::fs::read(&path).expect("the official template");
            assert_eq!(sha256(&bytes), official.sha256, "{name} is another revision");
            let found = check(&recordings, name, &template(&path), &json!({}), true);
            let n_cases = recordings.cases.len();
            println!("{name}: {} of {n_cases} cases differ in this program's engine", found.len());
            failures.extend(found);
        }
    }
    assert!(failures.is_empty(), "{} differ:\n{}", failures.len(), failures.join("\n"));
}

#[derive(Deserialize)]
struct Continued {
    date: String,
    cases: Vec<ContinuedCase>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ContinuedCase {
    messages: Vec<Message>,
    enable_thinking: Option<bool>,
    /// By template; null where transformers refuses.
    expected: BTreeMap<String, Option<String>>,
}

/// A conversation that ends within its last message: transformers' `continue_final_message`. The text is
/// where the whole rendering goes on, too, but for white space that a template takes away.
#[test]
fn unfinished_messages_end_where_transformers_ends_them() {
    let text = std::fs::read(folder().join("continued.json")).expect("recordings");
    let recorded: Continued = serde_json::from_slice(&text).expect("recordings");
    let date: CivilDate = recorded.date.parse().expect("a date");
    let smollm3 = template(&folder().join("../../src/chat/smollm3_like.jinja"));
    let qwen3 = template(&folder().join("qwen3_like.jinja"));
    let (mut failures, mut n_texts) = (Vec::new(), 0);
    for case in &recorded.cases {
        for (name, expected) in &case.expected {
            let (template, thinks) = match name.as_str() {
                "smollm3" => (&smollm3, None),
                name => (&qwen3, Some(name == "qwen3")),
            };
            let mut options = RenderOptions::new(date);
            options.enable_thinking = case.enable_thinking;
            options.extra.extend(thinks.map(|thinks| ("thinks".into(), json!(thinks))));
            let found = template.render_unfinished(&case.messages, &options);
            let whole = template.render(&case.messages, &options).expect("a text");
            let content = &case.messages[case.messages.len() - 1].content;
            let is_right = match (&found, expected) {
                (Ok(found), Some(expected)) => {
                    n_texts += 1;
                    found == expected && (whole.starts_with(found) || content.trim().is_empty())
                }
                (Err(error), None) => error.code() == "template",
                _ => false,
            };
            if !is_right {
                failures.push(format!("{name}, {content:?}:\n{found:?}\n{expected:?}\n{whole:?}"));
            }
        }
    }
    assert!(failures.is_empty(), "{} differ:\n{}", failures.len(), failures.join("\n"));
    assert!(n_texts > 80, "{n_texts} texts");
}

/// Every text comes to the tokens that the Python library makes of it, tags of the template as one each.
#[test]
fn renderings_come_to_the_same_tokens() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/nano/tokenizer.json");
    let tokenizer = Tokenizer::from_json(&std::fs::read(path).expect("nano")).expect("nano");
    let tags = ["<|im_start|>", "<|im_end|>", "<think>", "</think>"];
    let ids = tags.map(|tag| {
        let ids = tokenizer.encode(tag).expect("a tag");
        assert_eq!(ids.len(), 1, "{tag}");
        ids[0]
    });
    let mut n_texts = 0;
    for case in recordings().cases {
        for expected in case.expected.values().flatten() {
            let Expected::Text { text, tokens, tokens_sha256, .. } = expected else { continue };
            let found = tokenizer.encode(text).expect("a text");
            let bytes: Vec<u8> = found.iter().flat_map(|id| id.to_le_bytes()).collect();
            assert_eq!((found.len(), sha256(&bytes)), (*tokens, tokens_sha256.clone()), "{text}");
            for (tag, id) in tags.iter().zip(ids) {
                let n_found = found.iter().filter(|found| **found == id).count();
                assert_eq!(n_found, text.matches(tag).count(), "{tag} in {text}");
            }
            n_texts += 1;
        }
    }
    assert!(n_texts > 150, "{n_texts} texts");
}

/// What a model writes between the tags comes out as calls, whatever tokens it writes it in.
#[test]
fn calls_come_out_of_a_reply_token_by_token() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/nano/tokenizer.json");
    let tokenizer = Tokenizer::from_json(&std::fs::read(path).expect("nano")).expect("nano");
    let tools = [json!({ "name": "get_weather" }), json!({ "name": "now" })];
    let written = [
        "<tool_call>\n{\"name\": \"get_weather\", \"arguments\": {\"city\": \"Zürich 🦊\"}}\n</tool_call>\n<tool_call>{\"name\": \"now\"}</tool_call>",
        "<tool_call>\n{'name': 'get_weather', 'arguments': {'city': 'Zürich 🦊'}}\n</tool_call> <code>now()</code>",
        "<code>\nw = get_weather(city=\"Zürich 🦊\")\nprint(w); now()\n</code>",
    ];
    for text in written {
        let reply = format!("Ich sehe nach.\n{text}\né");
        let mut stream = tokenizer.decode_stream();
        let mut splitter = ToolCallSplitter::new(&tools);
        let mut shown = String::new();
        for id in tokenizer.encode(&reply).expect("a text") {
            shown.push_str(&splitter.push(&stream.push(id)));
        }
        shown.push_str(&splitter.push(&stream.finish()));
        shown.push_str(&splitter.finish());
        let words: Vec<&str> = shown.split_whitespace().collect();
        assert_eq!(words, ["Ich", "sehe", "nach.", "é"], "{text}");
        let calls: Vec<Value> =
            splitter.calls().iter().map(|call| json!([call.name, call.arguments])).collect();
        let expected = [json!(["get_weather", { "city": "Zürich 🦊" }]), json!(["now", {}])];
        assert_eq!(calls, expected, "{text}");
    }
}
