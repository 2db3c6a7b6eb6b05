//! The text side of every session fixture: template, tokenizer and write ids give what the
//! reference gave, turn by turn.

use deltamem::chat::{ChatTemplate, CivilDate, Message, RenderOptions, Role};
use deltamem::spans::{SpanCache, SpanOptions, WriteIds};
use deltamem::tokenizer::Tokenizer;
use serde_json::Value;
use std::path::{Path, PathBuf};

struct Session {
    name: String,
    case: Value,
    template: ChatTemplate,
    tokenizer: Tokenizer,
    options: RenderOptions,
    with_sentences: bool,
}

fn read_json(path: &Path) -> Value {
    let text = std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

impl Session {
    /// `None` for a fixture that is not a session.
    fn read(folder: &Path) -> Option<Session> {
        if !folder.join("tokenizer.json").exists() {
            return None;
        }
        let case = read_json(&folder.join("case.json"));
        case.get("session")?.get("turns")?;
        let source = std::fs::read_to_string(folder.join("chat_template.jinja")).unwrap();
        let tokenizer = std::fs::read(folder.join("tokenizer.json")).unwrap();
        let tokenizer_config = read_json(&folder.join("tokenizer_config.json"));
        assert_eq!(tokenizer_config["chat_template"], Value::from(source.as_str()));
        let adapter = read_json(&folder.join("delta_mem_config.json"));
        let kwargs = &case["session"]["chat_template_kwargs"];
        Some(Session {
            name: folder.file_name()?.to_string_lossy().into_owned(),
            template: ChatTemplate::parse(&source, None, tokenizer_config["eos_token"].as_str())
                .unwrap(),
            tokenizer: Tokenizer::from_json(&tokenizer).unwrap(),
            options: RenderOptions {
                enable_thinking: kwargs["enable_thinking"].as_bool(),
                ..RenderOptions::new(CivilDate::new(2025, 1, 1)?)
            },
            with_sentences: adapter["memory_write_granularity"] == "sentence_mean",
            case,
        })
    }

    fn step(&self, name: &Value) -> &Value {
        let steps = self.case["steps"].as_array().unwrap();
        steps.iter().find(|s| s["name"] == *name).unwrap()
    }

    /// Checks one ingest of the reference against the rendering and ids of `messages`.
    fn check_ingest(
        &self,
        ingest: &Value,
        messages: &[Message],
        prompt: bool,
        cache: &mut SpanCache,
    ) -> WriteIds {
        let at = format!("{}, {} messages", self.name, messages.len());
        let options = self.options.with_generation_prompt(prompt);
        let text = self.template.render(messages, &options).unwrap();
        let full_ids = self.tokenizer.encode(&text).unwrap();
        assert_eq!(full_ids, numbers(&ingest["full_ids"]), "{at}");
        assert_eq!(self.tokenizer.decode(&full_ids, false), text, "{at}");
        let span_options =
            SpanOptions { render: &self.options, with_sentences: self.with_sentences };
        let ids = cache
            .write_ids(messages, &self.template, &self.tokenizer, &full_ids, span_options)
            .unwrap();
        let prefix = ingest["stats"]["prefix_tokens"].as_u64().unwrap() as usize;
        let names = ingest["steps"].as_array().unwrap();
        assert_eq!(names.len(), 1, "{at}");
        let step = self.step(&names[0]);
        assert_eq!(full_ids[prefix..], numbers(&step["input_ids"]), "{at}");
        assert_eq!(ids.message_ids[prefix..], signed(&step["message_ids"]), "{at}");
        assert_eq!(ids.sentence_ids[prefix..], signed(&step["sentence_ids"]), "{at}");
        ids
    }

    fn check(&self) {
        let session = &self.case["session"];
        let system = session["system"].as_str();
        let mut messages: Vec<Message> =
            system.iter().map(|s| Message::new(Role::System, *s)).collect();
        let mut cache = SpanCache::default();
        for turn in session["turns"].as_array().unwrap() {
            messages.push(Message::new(Role::User, turn["user"].as_str().unwrap()));
            let prompt = self.options.with_generation_prompt(true);
            let text = self.template.render(&messages, &prompt).unwrap();
            assert_eq!(text, turn["prompt_text"].as_str().unwrap(), "{}", self.name);
            let ids = self.check_ingest(&turn["prompt_ingest"], &messages, true, &mut cache);

            let generated = numbers(&turn["generated_ids"]);
            let reply = self.tokenizer.decode(&generated, true);
            assert_eq!(reply, turn["assistant"].as_str().unwrap(), "{}", self.name);
            let mut stream = self.tokenizer.decode_stream();
            let streamed: String = generated.iter().map(|&id| stream.push(id)).collect();
            assert_eq!(streamed + &stream.finish(), reply, "{}", self.name);
            let decode = self.decode_step_after(&turn["prompt_ingest"]["steps"][0]);
            assert_eq!(numbers(&decode["input_ids"]), generated);
            assert!(signed(&decode["message_ids"]).iter().all(|&id| id == ids.next_message_id));
            assert!(signed(&decode["sentence_ids"]).iter().all(|&id| id == ids.next_sentence_id));

            messages.push(Message::new(Role::Assistant, reply));
            self.check_ingest(&turn["materialize_ingest"], &messages, false, &mut cache);
        }
    }

    fn decode_step_after(&self, name: &Value) -> &Value {
        let steps = self.case["steps"].as_array().unwrap();
        let at = steps.iter().position(|s| s["name"] == *name).unwrap();
        assert_eq!(steps[at + 1]["kind"], "decode");
        &steps[at + 1]
    }
}

fn numbers(list: &Value) -> Vec<u32> {
    signed(list).into_iter().map(|n| n as u32).collect()
}

fn signed(list: &Value) -> Vec<i64> {
    let list = list.as_array().unwrap();
    list.iter().map(|n| n.as_i64().unwrap()).collect()
}

#[test]
fn sessions_render_tokenise_and_number_as_the_reference() {
    let fixtures = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    let mut folders: Vec<PathBuf> = std::fs::read_dir(&fixtures)
        .unwrap_or_else(|e| panic!("{}: {e}", fixtures.display()))
        .map(|entry| entry.unwrap().path())
        .collect();
    folders.sort();
    let sessions: Vec<Session> = folders.iter().filter_map(|f| Session::read(f)).collect();
    assert!(!sessions.is_empty(), "no session in {}", fixtures.display());
    for session in &sessions {
        session.check();
    }
}
