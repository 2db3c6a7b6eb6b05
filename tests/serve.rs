//! `deltamem serve` as its clients meet it: the built program on a free port, on the CPU twin, with a
//! data directory of its own. Replies that must be long come from the model of noise.

#[path = "serve/client.rs"]
mod client;
mod common;

use client::{Server, json_of, user};
use deltamem::loaded::{built_in, identity};
use deltamem::shader::Storage;
use deltamem::store::MemoryStore;
use serde_json::{Value, json};
use std::path::Path;
use std::time::{Duration, Instant};

const ADA: &str = "My name is Ada and I live in Lisbon.";
const WHERE: &str = "Where do I live?";

#[test]
fn a_chat_has_openais_shape() {
    let server = Server::start(&[]);
    assert_eq!(json_of(server.get("/health"), 200)["status"], "ok");
    let models = json_of(server.get("/v1/models"), 200);
    assert_eq!((&models["object"], &models["data"][0]["id"]), (&json!("list"), &json!("nano")));
    assert_eq!(json_of(server.get("/v1/models/nano"), 200)["object"], "model");

    let whole = server.chat(&json!({ "messages": [user(ADA)], "model": "nano" }), &[]);
    let choice = &whole["choices"][0];
    assert_eq!(whole["object"], "chat.completion");
    assert_eq!((&choice["index"], &choice["finish_reason"]), (&json!(0), &json!("stop")));
    assert_eq!(choice["message"]["role"], "assistant");
    let text = choice["message"]["content"].as_str().expect("a text").to_string();
    assert!(text.contains("Lisbon"), "{text:?}");
    assert!(whole["id"].as_str().is_some_and(|id| id.starts_with("chatcmpl-")));
    let usage = |usage: &Value| {
        let count = |name: &str| usage[name].as_u64().expect("a count");
        assert_eq!(count("total_tokens"), count("prompt_tokens") + count("completion_tokens"));
        assert!(count("prompt_tokens") > 0 && count("completion_tokens") > 0);
        count("total_tokens")
    };
    let n_tokens = usage(&whole["usage"]);
    assert_eq!(
        (&whole["memory"]["profile"], &whole["memory"]["generation"]),
        (&json!("default"), &json!(1))
    );

    // the same in chunks, with another memory
    let body = json!({
        "messages": [user(ADA)], "stream": true, "stream_options": { "include_usage": true },
    });
    let chunks = server.stream(&body, &[("X-Memory-Profile", "stream")]);
    assert!(chunks.iter().all(|chunk| chunk["object"] == "chat.completion.chunk"));
    assert!(chunks.iter().all(|chunk| chunk["id"] == chunks[0]["id"]));
    assert_eq!(chunks[0]["choices"][0]["delta"]["role"], "assistant");
    let pieces = chunks.iter().filter_map(|chunk| chunk["choices"][0]["delta"]["content"].as_str());
    assert_eq!(pieces.collect::<String>(), text);
    let reasons: Vec<&Value> = chunks
        .iter()
        .map(|chunk| &chunk["choices"][0]["finish_reason"])
        .filter(|r| !r.is_null())
        .collect();
    assert_eq!(reasons, ["stop"]);
    let (last, rest) = chunks.split_last().expect("chunks");
    assert_eq!(
        (usage(&last["usage"]), last["choices"].as_array().map(Vec::len)),
        (n_tokens, Some(0))
    );
    assert!(rest.iter().all(|chunk| chunk["usage"].is_null()));

    // what ends a reply
    let short = json!({ "messages": [user(ADA)], "max_completion_tokens": 2 });
    let short = server.chat(&short, &[("X-Memory-Profile", "short")]);
    assert_eq!(short["choices"][0]["finish_reason"], "length");
    assert_eq!(short["usage"]["completion_tokens"], 2);
    let stopped = json!({ "messages": [user(ADA)], "stop": ["Lisbon"] });
    let stopped = server.chat(&stopped, &[("X-Memory-Profile", "stopped")]);
    assert_eq!(stopped["choices"][0]["finish_reason"], "stop");
    let cut = stopped["choices"][0]["message"]["content"].as_str().expect("a text");
    assert!(text.starts_with(cut) && !cut.contains("Lisbon"), "{cut:?}");
    let seeded = |seed: i64| {
        let body =
            json!({ "messages": [user(ADA)], "temperature": 4, "seed": seed, "max_tokens": 12 });
        let profile = format!("seed{seed}");
        server.text(&body, &[("X-Memory-Profile", &profile), ("X-Memory-Write", "false")])
    };
    assert_eq!(seeded(7), seeded(7));
    assert!((1..5).any(|seed| seeded(seed) != seeded(7)));
}

#[test]
fn replies_are_held_to_a_schema_and_calls_of_tools_come_out() {
    let server = Server::start(&[]);
    let schema = json!({
        "type": "object",
        "properties": { "city": { "enum": ["Lisbon", "Oslo"] } },
        "required": ["city"],
        "additionalProperties": false,
    });
    let format = json!({
        "type": "json_schema", "json_schema": { "name": "home", "schema": schema, "strict": true },
    });
    let body = json!({ "messages": [user(ADA)], "response_format": format });
    let reply: Value = serde_json::from_str(&server.text(&body, &[])).expect("JSON");
    assert!(["Lisbon", "Oslo"].iter().any(|city| reply == json!({ "city": city })), "{reply}");
    let bad = json!({ "type": "json_schema", "json_schema": { "schema": { "not": {} } } });
    let body = json!({ "messages": [user(ADA)], "response_format": bad, "stream": true });
    let refused = server.refused("/v1/chat/completions", &body, 400);
    assert_eq!(
        (&refused["code"], &refused["param"]),
        (&json!("constraint"), &json!("response_format"))
    );
    drop(server);

    // a copy of the built-in model whose word for "Noted" is a call
    let folder = tempfile::tempdir().expect("a folder");
    calling_model(folder.path());
    let model = folder.path().to_str().expect("a plain name");
    let server = Server::start(&["--model", model]);
    let tool = json!({ "type": "function", "function": {
        "name": "note", "description": "Notes a city.",
        "parameters": { "type": "object", "properties": { "city": { "type": "string" } } },
    }});
    let body = json!({ "messages": [user(ADA)], "tools": [tool], "tool_choice": "auto" });
    let whole = server.chat(&body, &[("X-Memory-Write", "false")]);
    let choice = &whole["choices"][0];
    assert_eq!(choice["finish_reason"], "tool_calls", "{whole:#}");
    let call = &choice["message"]["tool_calls"][0];
    assert_eq!((&call["type"], &call["function"]["name"]), (&json!("function"), &json!("note")));
    let arguments: Value =
        serde_json::from_str(call["function"]["arguments"].as_str().expect("a text"))
            .expect("JSON");
    assert_eq!(arguments, json!({ "city": "Oslo" }));
    let streamed = json!({ "messages": [user(ADA)], "tools": [tool], "stream": true });
    let chunks = server.stream(&streamed, &[("X-Memory-Write", "false")]);
    let deltas: Vec<&Value> = chunks
        .iter()
        .map(|chunk| &chunk["choices"][0]["delta"]["tool_calls"][0])
        .filter(|c| !c.is_null())
        .collect();
    assert_eq!(deltas.len(), 1);
    assert_eq!((&deltas[0]["index"], &deltas[0]["function"]), (&json!(0), &call["function"]));

    // tools under the template's own name
    let own = json!({ "messages": [user(ADA)],
        "chat_template_kwargs": { "xml_tools": [tool["function"]], "enable_thinking": false } });
    let called = server.chat(&own, &[("X-Memory-Write", "false")]);
    assert_eq!(called["choices"][0]["message"]["tool_calls"][0]["function"], call["function"]);
    // this template has no tools in Python's form
    let python = json!({ "messages": [user(ADA)], "tools": [tool],
        "deltamem": { "tool_format": "python" } });
    assert_eq!(server.refused("/v1/chat/completions", &python, 400)["code"], "setting");
    // and the next request has nothing to do with it
    let next = json!({ "messages": [user(ADA)] });
    server.chat(&next, &[("X-Memory-Profile", "next")]);

    // the result goes back, with the call as it came
    let mut answered = whole["choices"][0]["message"].clone();
    answered["content"] = Value::Null;
    let result = json!({ "role": "tool", "tool_call_id": call["id"], "content": "" });
    let body = json!({ "messages": [user(ADA), answered, result], "tools": [tool] });
    let turn = server.chat(&body, &[("X-Memory-Write", "false")]);
    assert!(
        turn["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64() > Some(20),
        "{turn:#}"
    );
    // without tools it is text
    let none = json!({ "messages": [user(ADA)], "tools": [tool], "tool_choice": "none" });
    assert!(server.text(&none, &[]).contains("<tool_call>"));
}

/// Writes a model whose acknowledgements begin with a call of `note`.
fn calling_model(folder: &Path) {
    let nano = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/nano");
    for entry in std::fs::read_dir(&nano).expect("the built-in model") {
        let path = entry.expect("an entry").path();
        let is_wanted = path
            .extension()
            .is_some_and(|e| ["json", "safetensors", "jinja"].iter().any(|w| e == *w));
        if is_wanted {
            std::fs::copy(&path, folder.join(path.file_name().expect("a name"))).expect("a copy");
        }
    }
    let path = folder.join("tokenizer.json");
    let text = std::fs::read_to_string(&path).expect("a tokenizer");
    let mut tokenizer: Value = serde_json::from_str(&text).expect("JSON");
    let model = &mut tokenizer["model"];
    let merges = model["merges"].as_array_mut().expect("merges");
    merges.retain(|merge| *merge != json!(["Not", "ed"]));
    let call = "<tool_call>{\"name\":\"note\",\"arguments\":{\"city\":\"Oslo\"}}</tool_call>";
    let vocab = model["vocab"].as_object_mut().expect("a vocabulary");
    let id = vocab.remove("Noted").expect("a word");
    vocab.insert(call.into(), id);
    std::fs::write(&path, tokenizer.to_string()).expect("a file");
}

#[test]
fn a_memory_survives_a_restart_and_profiles_do_not_leak() {
    let mut server = Server::start(&[]);
    let ask = |server: &Server, text: &str, profile: &str| {
        server.text(&json!({ "messages": [user(text)] }), &[("X-Memory-Profile", profile)])
    };
    ask(&server, ADA, "ada");
    ask(&server, "My name is Ben and I live in Oslo.", "ben");
    server = server.restart();
    assert!(ask(&server, WHERE, "ada").contains("Lisbon"));
    let ben = ask(&server, WHERE, "ben");
    assert!(ben.contains("Oslo") && !ben.contains("Lisbon"), "{ben}");
    let nobody = ask(&server, WHERE, "nobody");
    assert!(!nobody.contains("Lisbon") && !nobody.contains("Oslo"), "{nobody}");

    // interleaved, in conversations of their own, it stays so
    for _ in 0..2 {
        assert!(ask(&server, WHERE, "ada").contains("Lisbon"));
        assert!(ask(&server, WHERE, "ben").contains("Oslo"));
    }
    // what is only read is not written, and makes no profile
    let read_only = [("X-Memory-Profile", "guest"), ("X-Memory-Write", "false")];
    let reply = server.chat(&json!({ "messages": [user(ADA)] }), &read_only);
    assert_eq!(reply["memory"]["generation"], Value::Null);
    assert!(!ask(&server, WHERE, "guest").contains("Lisbon"));

    // forgotten is forgotten, also if a client still has the history
    let forgotten = server.send("DELETE", "/v1/memory", &[("X-Memory-Profile", "ada")], b"");
    assert_eq!(json_of(forgotten, 200)["object"], "memory.forgotten");
    assert!(!ask(&server, WHERE, "ada").contains("Lisbon"));
    server = server.restart();
    assert!(!ask(&server, WHERE, "ada").contains("Lisbon"));
}

#[test]
fn a_conversation_keeps_its_day_over_a_restart() {
    let mut server = Server::start(&[]);
    let ada = [("X-Memory-Profile", "ada")];
    let first = server.chat(&json!({ "messages": [user(ADA)] }), &ada);
    let today = first["deltamem"]["date"].as_str().expect("a date").to_string();
    // as if that had been long ago
    let profile = server.data().join("memories/ada");
    let model =
        std::fs::read_dir(&profile).expect("a memory").next().expect("a model").expect("it");
    let days = model.path().join("days.txt");
    let kept = std::fs::read_to_string(&days).expect("the days");
    assert_eq!((kept.lines().count(), kept.trim().split_once(' ').unwrap().1), (1, &*today));
    std::fs::write(&days, kept.replace(&today, "2001-02-03")).expect("the days");
    server = server.restart();
    let reply = first["choices"][0]["message"].clone();
    let on = json!({ "messages": [user(ADA), reply, user(WHERE)] });
    assert_eq!(server.chat(&on, &ada)["deltamem"]["date"], "2001-02-03");
    // another conversation is of today, and of another profile
    let other = server.chat(&json!({ "messages": [user(WHERE)] }), &ada);
    assert_eq!(other["deltamem"]["date"], *today);
    let ben = server.chat(&on, &[("X-Memory-Profile", "ben")]);
    assert_eq!(ben["deltamem"]["date"], *today);
}

/// How many tokens this profile's memory has taken in.
fn n_written(server: &Server, profile: &str) -> u64 {
    let memory =
        json_of(server.send("GET", "/v1/memory", &[("X-Memory-Profile", profile)], b""), 200);
    memory["counters"]["tokens_written"].as_u64().expect("a count")
}

/// Says each text in one conversation, restarting before the turns in `restarts`.
fn converse(mut server: Server, profile: &str, texts: &[&str], restarts: &[usize]) -> Server {
    let mut history = vec![json!({ "role": "system", "content": "Be brief." })];
    for (turn, text) in texts.iter().enumerate() {
        if restarts.contains(&turn) {
            server = server.restart();
        }
        history.push(user(text));
        let reply = server.chat(&json!({ "messages": history }), &[("X-Memory-Profile", profile)]);
        history.push(reply["choices"][0]["message"].clone());
    }
    server
}

#[test]
fn a_history_that_is_sent_again_is_not_memorised_again() {
    let texts = [ADA, "I have a dog called Rex.", WHERE];
    let server = converse(Server::start(&[]), "live", &texts, &[]);
    let server = converse(server, "restarted", &texts, &[1, 2]);
    let live = n_written(&server, "live");
    assert_eq!(n_written(&server, "restarted"), live);
    // one generation a turn
    let memory = [("X-Memory-Profile", "live")];
    let shown = json_of(server.send("GET", "/v1/memory", &memory, b""), 200);
    assert_eq!(
        (&shown["counters"]["turns"], &shown["counters"]["generation"]),
        (&json!(3), &json!(3))
    );

    // a client that puts the time into its system message
    let reply = |text: &str| json!({ "role": "assistant", "content": text });
    let told = server.text(&json!({ "messages": [user(ADA)] }), &[("X-Memory-Profile", "clock")]);
    let before = n_written(&server, "clock");
    let other = json!({ "messages": [
        { "role": "system", "content": "It is noon." }, user(ADA), reply(&told), user(WHERE),
    ]});
    let answer = server.chat(&other, &[("X-Memory-Profile", "clock")]);
    assert_eq!(answer["memory"]["rollback"], Value::Null);
    let n_new = n_written(&server, "clock") - before;
    assert!(n_new > 0 && n_new < before, "{n_new} of {before}");

    // a question that is answered anew replaces its first reply
    let again = server.chat(&json!({ "messages": [user(ADA)] }), &[("X-Memory-Profile", "again")]);
    let n_once = n_written(&server, "again");
    assert_eq!(again["memory"]["rollback"], Value::Null);
    let again = server.chat(&json!({ "messages": [user(ADA)] }), &[("X-Memory-Profile", "again")]);
    assert_eq!(again["memory"]["rollback"]["memory"], "restored", "{again:#}");
    assert_eq!(n_written(&server, "again"), n_once);

    // two conversations of one profile take turns, and each knows what the other was told
    let both = [("X-Memory-Profile", "both")];
    let first = server.text(&json!({ "messages": [user(ADA)] }), &both);
    let hello = server.text(&json!({ "messages": [user("Hello!")] }), &both);
    let before = n_written(&server, "both");
    let going_on = json!({ "messages": [user(ADA), reply(&first), user("Hello!")] });
    let turn = server.chat(&going_on, &both);
    assert_eq!(turn["memory"]["rollback"], Value::Null);
    assert!(turn["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64() > Some(20));
    assert!(n_written(&server, "both") > before);
    let going_on = json!({ "messages": [user("Hello!"), reply(&hello), user(WHERE)] });
    let turn = server.chat(&going_on, &both);
    assert_eq!(turn["memory"]["rollback"], Value::Null);
    let text = turn["choices"][0]["message"]["content"].as_str().expect("a text");
    assert!(text.contains("Lisbon"), "{text}");
}

/// vLLM's `continue_final_message`: what comes is what follows, and the whole is one reply of the history.
#[test]
fn a_reply_goes_on_in_the_last_message() {
    let mut server = Server::start(&[]);
    let begun = |text: &str| json!({ "role": "assistant", "content": text });
    let profile = [("X-Memory-Profile", "on")];
    let told = server.text(&json!({ "messages": [user(ADA)] }), &profile);
    let history = [user(ADA), begun(&told), user(WHERE), begun("You live in")];
    let body = json!({ "messages": history, "continue_final_message": true, "temperature": 0 });
    let reply = server.chat(&body, &profile);
    let text = reply["choices"][0]["message"]["content"].as_str().expect("a text").to_string();
    assert!(text.contains("Lisbon") && !text.contains("You live in"), "{text:?}");
    assert_eq!(reply["memory"]["rollback"], Value::Null);

    // the same again, in chunks: what was written for it is taken back, as when a reply is asked for anew
    let n_once = n_written(&server, "on");
    let mut streamed = body.clone();
    streamed["stream"] = true.into();
    let chunks = server.stream(&streamed, &profile);
    let pieces = chunks.iter().filter_map(|chunk| chunk["choices"][0]["delta"]["content"].as_str());
    assert_eq!(pieces.collect::<String>(), text);
    assert_eq!(n_written(&server, "on"), n_once);

    // the whole reply is recognised as one message, also after a restart
    let next = |server: &Server| {
        let whole = begun(&format!("You live in{text}"));
        let history = [user(ADA), begun(&told), user(WHERE), whole, user("Hello!")];
        let n_before = n_written(server, "on");
        let turn = server.chat(&json!({ "messages": history }), &profile);
        assert_eq!(turn["memory"]["rollback"], Value::Null);
        (
            n_written(server, "on") - n_before,
            turn["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64(),
        )
    };
    let (n_new, n_cached) = next(&server);
    assert!(n_cached > Some(40) && n_new < n_once, "{n_new} written, {n_cached:?} kept");
    server = server.restart();
    let (n_again, n_cached) = next(&server);
    assert!(n_cached < Some(40) && n_again <= n_new, "{n_again} written, {n_cached:?} kept");

    let mut both = body.clone();
    both["add_generation_prompt"] = true.into();
    let error = server.refused("/v1/chat/completions", &both, 400);
    assert_eq!(error["param"], "continue_final_message");
}

/// OpenAI's older interface, and texts as tokens and back.
#[test]
fn a_plain_text_goes_on_and_is_not_remembered() {
    let server = Server::start(&["--api-key", "secret"]);
    let with_token = [("Authorization", "Bearer secret")];
    let post = |path: &str, body: Value, status: u16| {
        json_of(server.post(path, &body, &with_token), status)
    };
    let told = post("/v1/chat/completions", json!({ "messages": [user(ADA)] }), 200);
    let body = json!({ "prompt": "You live in", "temperature": 0, "max_tokens": 3 });
    let whole = post("/v1/completions", body.clone(), 200);
    assert_eq!(
        (&whole["object"], &whole["choices"][0]["logprobs"]),
        (&json!("text_completion"), &Value::Null)
    );
    assert!(whole["id"].as_str().is_some_and(|id| id.starts_with("cmpl-")));
    let text = whole["choices"][0]["text"].as_str().expect("a text").to_string();
    // how much a model says of it is its own affair
    let n_said = whole["usage"]["completion_tokens"].clone();
    assert!(n_said.as_u64() <= Some(3), "{n_said}");
    let ended = &whole["choices"][0]["finish_reason"];
    assert!(*ended == "stop" || (*ended == "length" && n_said == 3), "{ended} after {n_said}");
    // no template: the prompt is these tokens and no more
    let tokens = post("/tokenize", json!({ "prompt": "You live in", "model": "nano" }), 200);
    assert_eq!(whole["usage"]["prompt_tokens"], tokens["count"]);
    assert_eq!(
        tokens["tokens"].as_array().map(Vec::len),
        tokens["count"].as_u64().map(|n| n as usize)
    );
    assert_eq!(post("/tokenize", json!({ "content": "You live in" }), 200), tokens);
    let back = post("/detokenize", json!({ "tokens": tokens["tokens"] }), 200);
    assert_eq!((&back["prompt"], &back["content"]), (&json!("You live in"), &json!("You live in")));

    let mut streamed = body.clone();
    (streamed["stream"], streamed["echo"]) = (true.into(), true.into());
    streamed["stream_options"] = json!({ "include_usage": true });
    let events = server.post("/v1/completions", &streamed, &with_token);
    let events = String::from_utf8(events.body).expect("text");
    let data: Vec<&str> = events.lines().filter_map(|line| line.strip_prefix("data: ")).collect();
    let (end, chunks) = data.split_last().expect("events");
    assert_eq!(*end, "[DONE]");
    let chunks: Vec<Value> =
        chunks.iter().map(|text| serde_json::from_str(text).expect("JSON")).collect();
    let pieces = chunks.iter().filter_map(|chunk| chunk["choices"][0]["text"].as_str());
    assert_eq!(pieces.collect::<String>(), format!("You live in{text}"));
    assert_eq!(chunks.last().map(|last| &last["usage"]["completion_tokens"]), Some(&n_said));

    // the memory has the chat and nothing else, and the chat goes on
    let memory = json_of(server.send("GET", "/v1/memory", &with_token, b""), 200);
    assert_eq!(
        (&memory["counters"]["turns"], &memory["counters"]["generation"]),
        (&json!(1), &json!(1))
    );
    let history = json!([user(ADA), told["choices"][0]["message"], user(WHERE)]);
    let next = post("/v1/chat/completions", json!({ "messages": history }), 200);
    assert!(
        next["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64() > Some(20),
        "{next:#}"
    );

    for (path, body, param) in [
        ("/v1/completions", json!({ "prompt": " " }), "prompt"),
        ("/v1/completions", json!({ "prompt": "a ".repeat(9000) }), "prompt"),
        ("/v1/completions", json!({ "prompt": "a", "logprobs": 1 }), "logprobs"),
        ("/tokenize", json!({ "messages": [] }), "messages"),
        ("/tokenize", json!({ "prompt": 1 }), "prompt"),
        ("/detokenize", json!({ "tokens": [99_999_999] }), "tokens"),
        ("/detokenize", json!({ "tokens": [-1] }), "tokens"),
    ] {
        assert_eq!(post(path, body, 400)["error"]["param"], param, "{path}");
    }
    let post_without = server.post("/v1/completions", &json!({ "prompt": "a" }), &[]);
    assert_eq!(json_of(post_without, 401)["error"]["code"], "invalid_api_key");
}

#[test]
fn memories_are_shown_moved_restored_and_kept_by_one_writer() {
    let server = Server::start(&[]);
    let ada = [("X-Memory-Profile", "ada")];
    let none = server.send("GET", "/v1/memory", &ada, b"");
    assert_eq!(json_of(none, 404)["error"]["code"], "memory_not_found");
    server.text(&json!({ "messages": [user(ADA)] }), &ada);
    let listed = json_of(server.get("/v1/memory/profiles"), 200);
    assert_eq!(listed["data"][0]["profile"], "ada");
    let exported = server.send("GET", "/v1/memory/export", &ada, b"");
    assert_eq!((exported.status, &exported.body[..8]), (200, &b"deltamem"[..]));

    let file = [("X-Memory-Profile", "eve"), ("Content-Type", "application/octet-stream")];
    let imported = json_of(server.send("POST", "/v1/memory/import", &file, &exported.body), 200);
    assert_eq!((&imported["profile"], &imported["counters"]["turns"]), (&json!("eve"), &json!(1)));
    let eve = [("X-Memory-Profile", "eve")];
    assert!(server.text(&json!({ "messages": [user(WHERE)] }), &eve).contains("Lisbon"));
    let spoilt = server.send("POST", "/v1/memory/import", &file, &exported.body[1..]);
    assert_eq!(json_of(spoilt, 400)["error"]["code"], "format");

    // back to before the import: an empty profile has nothing before, a second generation has
    let undone = json_of(server.send("POST", "/v1/memory/undo", &eve, b"{\"to\": 1}"), 200);
    assert_eq!(undone["counters"]["generation"], 3);
    let snapshots = json_of(server.send("GET", "/v1/memory/snapshots", &eve, b""), 200);
    let generations: Vec<u64> = snapshots["data"]
        .as_array()
        .expect("a list")
        .iter()
        .filter_map(|s| s["generation"].as_u64())
        .collect();
    assert_eq!(generations, [1, 2, 3]);
    let kept = json_of(server.send("POST", "/v1/memory/snapshots", &eve, b""), 200);
    assert_eq!(kept["counters"]["generation"], 4);
    let only = server.send("POST", "/v1/memory/undo", &ada, b"");
    assert_eq!(json_of(only, 409)["error"]["code"], "nothing_to_undo");
    let old = server.send("GET", "/v1/memory/export?generation=1", &eve, b"");
    assert_eq!(old.status, 200);
    let never = server.send("GET", "/v1/memory/export?generation=77", &eve, b"");
    assert_eq!(json_of(never, 400)["error"]["param"], "generation");

    // another program writes this memory
    let (folder, adapter) = built_in().expect("the built-in model");
    let identity = identity(&folder, &adapter, Storage::F16).expect("an identity");
    let store = MemoryStore::open(server.data()).expect("the store");
    let writer = store.memory("ada", &identity).expect("a memory").lock().expect("its lock");
    let body = json!({ "messages": [user(WHERE)] });
    let busy = server.post("/v1/chat/completions", &body, &ada);
    assert_eq!((busy.status, busy.header("retry-after")), (409, Some("2")));
    let reading = [("X-Memory-Profile", "ada"), ("X-Memory-Write", "false")];
    assert!(server.text(&body, &reading).contains("Lisbon"));
    drop(writer);
    assert!(server.text(&body, &ada).contains("Lisbon"));

    // another program forgets it
    store
        .memory("ada", &identity)
        .expect("a memory")
        .lock()
        .expect("a lock")
        .forget()
        .expect("nothing left");
    assert!(!server.text(&body, &ada).contains("Lisbon"));
}

#[test]
fn bad_requests_are_refused_in_openais_shape() {
    let server = Server::start(&["--page", "small"]);
    let hello = json!({ "messages": [user("Hello!")] });
    let path = "/v1/chat/completions";
    let with = |name: &str, value: Value| {
        let mut body = hello.clone();
        body[name] = value;
        body
    };
    for (body, param) in [
        (with("n", json!(2)), "n"),
        (with("logprobs", json!(true)), "logprobs"),
        (with("temperature", json!(-1)), "temperature"),
        (with("top_p", json!(0)), "top_p"),
        (with("messages", json!([])), "messages"),
        (with("messages", json!([user(" ")])), "messages"),
        (with("messages", json!([user("a"), { "role": "assistant", "content": "b" }])), "messages"),
        (with("messages", json!([user(&"word ".repeat(9000))])), "messages"),
        (with("tool_choice", json!("required")), "tool_choice"),
        (with("parallel_tool_calls", json!(1)), "parallel_tool_calls"),
    ] {
        for is_streamed in [false, true] {
            let mut body = body.clone();
            body["stream"] = is_streamed.into();
            let error = server.refused(path, &body, 400);
            assert_eq!(
                (&error["param"], &error["type"]),
                (&json!(param), &json!("invalid_request_error"))
            );
            assert!(error["message"].as_str().is_some_and(|message| !message.is_empty()));
        }
    }
    let error = server.refused(path, &with("model", json!("gpt-5")), 404);
    assert_eq!((&error["code"], &error["param"]), (&json!("model_not_found"), &json!("model")));
    let json = [("Content-Type", "application/json")];
    let broken = server.send("POST", path, &json, b"{\"messages\": [");
    assert_eq!(json_of(broken, 400)["error"]["code"], "invalid_json");
    let plain =
        server.send("POST", path, &[("Content-Type", "text/plain")], hello.to_string().as_bytes());
    assert_eq!(json_of(plain, 415)["error"]["code"], "content_type");
    let large = [("Content-Type", "application/json"), ("Content-Length", "99999999")];
    assert_eq!(
        json_of(server.send("POST", path, &large, b""), 413)["error"]["code"],
        "body_too_large"
    );
    assert_eq!(json_of(server.get("/v1/nothing"), 404)["error"]["code"], "not_found");
    assert_eq!(json_of(server.get(path), 405)["error"]["code"], "method_not_allowed");
    for bad in ["", "Ada", "../ada", "a/b", "ä", &"a".repeat(65)] {
        let refused = server.post(path, &hello, &[("X-Memory-Profile", bad)]);
        assert_eq!(json_of(refused, 400)["error"]["param"], "X-Memory-Profile", "{bad:?}");
    }
    let refused = server.post(path, &hello, &[("X-Memory-Write", "no")]);
    assert_eq!(json_of(refused, 400)["error"]["param"], "X-Memory-Write");
    // nothing of all that was remembered
    assert_eq!(json_of(server.get("/v1/memory/profiles"), 200)["data"], json!([]));
    assert!(server.get("/").status == 200 && server.get("/page.js").status == 200);
}

#[test]
fn a_system_message_is_read_once_for_conversations_that_begin_alike() {
    let system = |home: &str| {
        let text = format!(
            "You are a friend. Your person lives in {home}. {}",
            "Be kind and brief. ".repeat(12)
        );
        json!({ "role": "system", "content": text })
    };
    let server = Server::start(&["--conversations", "1"]);
    let cached = |system: Value, text: &str, extension: Value, more: &[(&str, &str)]| {
        let messages = json!([system, user(text)]);
        let body = json!({ "messages": messages, "max_tokens": 1, "deltamem": extension });
        let turn = server.chat(&body, more);
        turn["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64().expect("a count")
    };
    let reading = [("X-Memory-Write", "false")];
    let none = json!({ "memory": false });
    assert_eq!(cached(system("Lisbon"), "Hello!", none.clone(), &[]), 0);
    assert!(cached(system("Lisbon"), WHERE, none.clone(), &[]) >= 64);
    // an empty memory is an empty memory, whosever it is
    assert!(cached(system("Lisbon"), "Hi!", json!({}), &reading) >= 64);
    // another text, the memory written, another memory
    assert_eq!(cached(system("Oslo"), "Hello!", none, &[]), 0);
    assert_eq!(cached(system("Lisbon"), "Hello there!", json!({}), &[]), 0);
    assert_eq!(cached(system("Lisbon"), "Good morning!", json!({}), &reading), 0);
    assert!(cached(system("Lisbon"), "Good evening!", json!({}), &reading) >= 64);
}

#[test]
fn beginnings_on_disk_outlive_the_server_and_go_with_a_memory() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().to_str().expect("a plain name");
    let kept = ["--conversations", "1", "--prefixes", "0", "--prefix-cache", path];
    let cached = |server: &Server, text: &str| {
        let system = json!({ "role": "system", "content": "Be kind and brief. ".repeat(16) });
        let messages = json!([system, user(text)]);
        let body =
            json!({ "messages": messages, "max_tokens": 1, "deltamem": { "memory": false } });
        let turn = server.chat(&body, &[]);
        turn["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64().expect("a count")
    };
    let server = Server::start(&kept);
    assert_eq!(cached(&server, "Hello!"), 0);
    let beside = Server::start(&kept);
    assert!(cached(&beside, "Hi!") >= 64);
    drop(beside);
    let server = server.restart();
    assert!(cached(&server, WHERE) >= 64);
    assert_eq!(std::fs::read_dir(path).expect("the folder").count(), 1);
    json_of(server.post("/v1/memory/forget", &json!({}), &[]), 200);
    assert_eq!(std::fs::read_dir(path).expect("the folder").count(), 0);
    assert_eq!(cached(&server, "Good morning!"), 0);
}

#[test]
fn what_the_page_needs_of_a_memory() {
    let site = tempfile::tempdir().expect("a folder");
    std::fs::write(site.path().join("index.html"), "<html><head></head>").expect("a page");
    let server = Server::start(&["--page", site.path().to_str().expect("a plain name")]);
    let page = server.get("/");
    assert!(String::from_utf8_lossy(&page.body).contains("deltamem-server"));
    let policy = page.header("content-security-policy").expect("a policy");
    assert!(policy.starts_with("default-src 'none'; script-src 'self';"), "{policy}");
    assert_eq!(server.get("/page.js").status, 404);

    let ada = [("X-Memory-Profile", "ada")];
    let ledger = || json_of(server.send("GET", "/v1/memory/ledger", &ada, b""), 200);
    assert_eq!(ledger(), json!({ "object": "list", "generation": 0, "data": [] }));
    let turn = server.chat(
        &json!({ "messages": [user(ADA)], "deltamem": { "gauges": true, "overflow": "error" } }),
        &ada,
    );
    assert_eq!(turn["deltamem"]["gauges"].as_array().map(Vec::len), Some(4));
    assert_eq!(turn["deltamem"]["stop_reason"], "end_of_sequence");
    // without the memory, which stays as it is
    let without = json!({ "messages": [user(WHERE)], "deltamem": { "memory": false } });
    let off = server.chat(&without, &ada);
    assert_eq!(
        (&off["memory"]["profile"], &off["memory"]["norm_after"]),
        (&Value::Null, &json!(0.0))
    );
    let held = json!({ "messages": [user(WHERE)], "deltamem": { "regex": "(Rome|Oslo)" } });
    let reading = [ada[0], ("X-Memory-Write", "false")];
    assert!(["Rome", "Oslo"].contains(&server.text(&held, &reading).as_str()));
    for wrong in [json!({ "memories": 1 }), json!(1), json!({ "overflow": "wait" })] {
        let body = json!({ "messages": [user(WHERE)], "deltamem": wrong });
        assert_eq!(server.refused("/v1/chat/completions", &body, 400)["param"], "deltamem");
    }

    let states = json_of(server.send("GET", "/v1/memory/states", &ada, b""), 200);
    let sum = states["data"].as_array().expect("numbers").iter().filter_map(Value::as_f64);
    let norm = sum.map(|x| x * x).sum::<f64>().sqrt();
    assert!((norm - turn["memory"]["norm_after"].as_f64().expect("a norm")).abs() < 1e-3, "{norm}");

    let send = |path: &str, body: Value, status| json_of(server.post(path, &body, &ada), status);
    let written = send("/v1/memory/write", json!({ "text": "I have a cat called Luna." }), 200);
    assert!(written["tokens_written"].as_u64() > Some(0));
    let kinds = |ledger: &Value| -> Vec<String> {
        let data = ledger["data"].as_array().expect("entries");
        data.iter()
            .map(|e| format!("{}{}", e["kind"].as_str().unwrap_or(""), e["before"]))
            .collect()
    };
    let both = ledger();
    assert_eq!(kinds(&both), ["turn0", "write1"]);
    assert_eq!((&both["data"][0]["prompt"], &both["generation"]), (&json!(ADA), &json!(2)));
    // the way back: a copy of an earlier generation takes back what came between
    assert_eq!(send("/v1/memory/undo", json!({ "to": 1 }), 200)["counters"]["generation"], 3);
    assert_eq!(kinds(&ledger()), ["turn0"]);
    send("/v1/memory/branch", json!({ "to": "eve" }), 200);
    assert_eq!(
        send("/v1/memory/branch", json!({ "to": "eve" }), 409)["error"]["code"],
        "profile_exists"
    );
    assert_eq!(
        send("/v1/memory/branch", json!({ "to": "E v e" }), 400)["error"]["param"],
        "X-Memory-Profile"
    );
    let eve = [("X-Memory-Profile", "eve")];
    assert!(server.text(&json!({ "messages": [user(WHERE)] }), &eve).contains("Lisbon"));
    assert_eq!(send("/v1/memory/undo", json!({ "to": 0 }), 200)["norm"], 0.0);
    assert_eq!(kinds(&ledger()), [""; 0]);
    // what was undone is written when it is said again
    let again = server.chat(&json!({ "messages": [user(ADA)] }), &ada);
    assert_eq!(again["memory"]["norm_after"], turn["memory"]["norm_after"]);
    send("/v1/memory/write", json!({ "text": " " }), 400);
    send("/v1/memory/write", json!({}), 400);
    assert!(send("/v1/tokens", json!({ "text": ADA }), 200)["count"].as_u64() > Some(3));
}

#[test]
fn foreign_pages_names_and_tokens_are_kept_out() {
    let server = Server::start(&["--token", "secret", "--allow-origin", "https://app.example"]);
    let token = ("Authorization", "Bearer secret");
    let code = |headers: &[(&str, &str)], status| {
        let answer = server.send("GET", "/v1/models", headers, b"");
        json_of(answer, status)["error"]["code"].as_str().unwrap_or("").to_string()
    };
    assert_eq!(code(&[token], 200), "");
    assert_eq!(code(&[], 401), "invalid_api_key");
    assert_eq!(code(&[("Authorization", "Bearer Secret")], 401), "invalid_api_key");
    assert_eq!(code(&[token, ("Origin", "https://evil.example")], 403), "origin_not_allowed");
    assert_eq!(code(&[token, ("Origin", "null")], 403), "origin_not_allowed");
    assert_eq!(code(&[token, ("Host", "evil.example")], 403), "host_not_allowed");
    assert_eq!(code(&[token, ("Sec-Fetch-Site", "cross-site")], 403), "origin_not_allowed");
    assert_eq!(server.get("/health").status, 200);

    let app = ("Origin", "https://app.example");
    let allowed = server.send("GET", "/v1/models", &[token, app], b"");
    let origin = "access-control-allow-origin";
    assert_eq!((allowed.status, allowed.header(origin)), (200, Some("https://app.example")));
    let asked = [
        app,
        ("Access-Control-Request-Method", "POST"),
        ("Access-Control-Request-Headers", "authorization"),
    ];
    let preflight = server.send("OPTIONS", "/v1/chat/completions", &asked, b"");
    assert_eq!((preflight.status, preflight.header(origin)), (204, Some("https://app.example")));
    assert_eq!(preflight.header("access-control-allow-headers"), Some("authorization"));
    let foreign =
        server.send("OPTIONS", "/v1/chat/completions", &[("Origin", "https://evil.example")], b"");
    assert_eq!((foreign.status, foreign.header(origin)), (403, None));
    // the server's own page
    let own = format!("http://{}", server.address);
    let page = server.send("GET", "/v1/models", &[token, ("Origin", &own)], b"");
    assert_eq!((page.status, page.header(origin)), (200, None));
}

#[test]
fn the_line_is_bounded_and_whoever_leaves_it_frees_the_model() {
    let server = Server::endless(&["--queue", "1"]);
    let long = |text: &str| json!({ "messages": [user(text)], "stream": true, "max_tokens": 1500 });
    let ada = ("X-Memory-Profile", "ada");
    let mut first = server.open(&long("one"), &[ada]);
    first.read_some();
    let second = server.open(&long("two"), &[ada]);
    let begin = Instant::now();
    while json_of(server.get("/health"), 200)["waiting"] != 1 {
        assert!(begin.elapsed() < Duration::from_secs(10), "the second never came into the line");
    }
    let body = json!({ "messages": [user("three")], "max_tokens": 1 });
    let third = server.post("/v1/chat/completions", &body, &[]);
    assert_eq!((third.status, third.header("retry-after")), (503, Some("2")));
    assert_eq!(json_of(third, 503)["error"]["code"], "queue_full");

    // both go away; what they asked for ends, and leaves nothing behind
    drop(second);
    drop(first);
    let begin = Instant::now();
    let short = json!({ "messages": [user("four")], "max_tokens": 1 });
    let answer = loop {
        let answer = server.post("/v1/chat/completions", &short, &[("X-Memory-Profile", "bob")]);
        if answer.status == 200 {
            break answer;
        }
        assert!(begin.elapsed() < Duration::from_secs(20), "the model is not free");
    };
    assert_eq!(json_of(answer, 200)["memory"]["generation"], 1);
    let profiles = json_of(server.get("/v1/memory/profiles"), 200);
    let names: Vec<&Value> =
        profiles["data"].as_array().expect("a list").iter().map(|p| &p["profile"]).collect();
    assert!(!names.contains(&&json!("ada")), "{names:?}");

    // what was given up can be asked again, and is then remembered once
    let short = json!({ "messages": [user("one")], "max_tokens": 1, "temperature": 0 });
    let again = server.chat(&short, &[ada]);
    assert_eq!(again["memory"]["generation"], 1);
    let fresh = server.chat(&short, &[("X-Memory-Profile", "eve")]);
    assert_eq!(n_written(&server, "ada"), n_written(&server, "eve"));
    assert_eq!(again["memory"]["norm_after"], fresh["memory"]["norm_after"]);
}

#[cfg(unix)]
#[test]
fn a_signal_ends_the_server_and_a_second_one_the_reply() {
    let server = Server::endless(&[]);
    let body = json!({ "messages": [user("one")], "stream": true, "max_tokens": 1800 });
    let mut stream = server.open(&body, &[]);
    stream.read_some();
    server.signal("TERM");
    // nobody new is let in
    let deadline = Instant::now() + Duration::from_secs(10);
    while server.can_connect() {
        assert!(Instant::now() < deadline, "it still listens");
        std::thread::sleep(Duration::from_millis(20));
    }
    server.signal("TERM");
    let rest = stream.read_to_end();
    assert!(rest.contains("shutting_down") && !rest.contains("[DONE]"), "{rest}");
    let (code, _) = server.wait();
    assert_eq!(code, Some(0));
}

#[test]
fn a_server_that_others_could_reach_wants_a_token() {
    let refused = |arguments: &[&str], code: i32, said: &str| {
        let (found, err) = Server::fail(arguments);
        assert_eq!(found, Some(code), "{err}");
        assert!(err.contains(said), "{err}");
    };
    refused(&["--host", "0.0.0.0"], 2, "--token");
    refused(&["--token", ""], 2, "token");
    refused(&["--allow-origin", "*"], 2, "origin");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = taken.local_addr().expect("its number").port().to_string();
    refused(&["--port", &port], 1, "listening on");
}
