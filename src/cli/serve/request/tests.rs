use super::*;
use deltamem::chat::Role;
use serde_json::json;

fn read(extra: Value) -> Result<ChatRequest, (String, String)> {
    let mut body = json!({ "messages": [{ "role": "user", "content": "Hello." }] });
    for (name, value) in extra.as_object().unwrap() {
        body[name] = value.clone();
    }
    read_request(body.to_string().as_bytes()).map_err(|error| {
        let json = error.to_json();
        let field = |name: &str| json["error"][name].as_str().unwrap_or("").to_string();
        (field("code"), field("param"))
    })
}

fn refused(extra: Value) -> (String, String) {
    read(extra).unwrap_err()
}

#[test]
fn settings_are_read_and_those_that_do_not_matter_passed_over() {
    let request = read(json!({
        "model": "nano", "temperature": 0, "top_p": 0.5, "top_k": 3, "min_p": 0.1, "seed": -1,
        "max_tokens": 5, "max_completion_tokens": 6, "stop": "a", "n": 1, "logprobs": false,
        "user": "x", "stream": true, "stream_options": { "include_usage": true },
        "presence_penalty": 0.0, "logit_bias": {}, "reasoning_effort": "low", "store": null,
    }));
    let request = request.unwrap();
    let expected = Settings {
        temperature: Some(0.0),
        top_p: Some(0.5),
        top_k: Some(3),
        min_p: Some(0.1),
        seed: Some(u64::MAX),
        max_tokens: Some(6),
        stop: vec!["a".into()],
        thinking: Some(true),
        ..Settings::default()
    };
    assert_eq!(request.settings, expected);
    assert!(request.is_streamed && request.has_usage);
    assert_eq!(request.model.as_deref(), Some("nano"));
    let off = read(json!({ "chat_template_kwargs": { "enable_thinking": false } })).unwrap();
    assert_eq!(off.settings.thinking, Some(false));
    assert!(!off.is_streamed && !off.has_usage);
}

#[test]
fn a_reply_goes_on_in_a_last_message_of_the_assistant_only() {
    let talk = |role: &str| json!([{ "role": "user", "content": "Where?" }, { "role": role, "content": "In" }]);
    let asked = |switches: Value, role: &str| {
        let mut body = switches;
        body["messages"] = talk(role);
        read(body).map(|request| (request.is_continued, request.history.len()))
    };
    let on = || json!({ "continue_final_message": true });
    assert_eq!(asked(on(), "assistant"), Ok((true, 2)));
    let both = |add: bool| json!({ "continue_final_message": true, "add_generation_prompt": add });
    assert_eq!(asked(both(false), "assistant"), Ok((true, 2)));
    assert_eq!(asked(json!({ "add_generation_prompt": true }), "user"), Ok((false, 2)));
    assert_eq!(asked(json!({ "continue_final_message": false }), "user"), Ok((false, 2)));
    let wrong = |code: &str, param: &str| Err((code.to_string(), param.to_string()));
    let contradiction = wrong("invalid_value", "continue_final_message");
    assert_eq!(asked(both(true), "assistant"), contradiction);
    assert_eq!(asked(both(true), "user"), contradiction);
    let silent = json!({ "add_generation_prompt": false });
    assert_eq!(asked(silent.clone(), "user"), wrong("unsupported", "add_generation_prompt"));
    assert_eq!(asked(silent, "assistant"), wrong("unsupported", "add_generation_prompt"));
    assert_eq!(asked(on(), "user"), wrong("messages", "messages"));
    assert_eq!(asked(json!({}), "assistant"), wrong("messages", "messages"));
    let odd = json!({ "continue_final_message": "yes" });
    assert_eq!(asked(odd, "assistant"), wrong("invalid_value", "continue_final_message"));
    let call =
        json!({ "id": "1", "type": "function", "function": { "name": "now", "arguments": "{}" } });
    let calling = json!({ "role": "assistant", "content": "I look.", "tool_calls": [call] });
    let body = json!({ "continue_final_message": true, "messages": [calling] });
    let found = read(body).map(|request| (request.is_continued, 1));
    assert_eq!(found, wrong("messages", "messages"));
}

#[test]
fn what_cannot_be_honoured_is_refused_by_name() {
    for (name, value) in [
        ("n", json!(2)),
        ("logprobs", json!(true)),
        ("top_logprobs", json!(3)),
        ("frequency_penalty", json!(0.5)),
        ("logit_bias", json!({ "1": 2 })),
        ("audio", json!({})),
    ] {
        assert_eq!(refused(json!({ name: value })), ("unsupported".into(), name.into()));
    }
    for (name, value) in [
        ("temperature", json!("hot")),
        ("top_p", json!([])),
        ("seed", json!(1.5)),
        ("max_tokens", json!(0)),
        ("max_tokens", json!(-1)),
        ("stop", json!([1])),
        ("stop", json!("")),
        ("stream", json!("yes")),
        ("model", json!(1)),
        ("response_format", json!({ "type": "xml" })),
        ("response_format", json!({ "type": "json_schema", "json_schema": { "schema": 1 } })),
        ("tools", json!({})),
        ("messages", json!([])),
        ("messages", json!("Hello.")),
    ] {
        assert_eq!(refused(json!({ name: value })), ("invalid_value".into(), name.into()));
    }
    for body in ["", "{", "[]", "1", "\u{0}", "{\"messages\": [}"] {
        let error = read_request(body.as_bytes()).unwrap_err().to_json();
        assert_eq!(error["error"]["code"], "invalid_json", "{body:?}");
    }
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    assert!(read_request(deep.as_bytes()).is_err());
}

#[test]
fn variables_of_the_template_are_passed_on() {
    let kwargs = |value: Value| json!({ "chat_template_kwargs": value });
    let tool = json!({ "name": "now" });
    let given = json!({
        "enable_thinking": true, "xml_tools": null, "python_tools": [tool, "def f(): ..."],
        "custom_instructions": "Be kind.",
    });
    let request = read(kwargs(given)).unwrap();
    assert_eq!(request.settings.thinking, Some(true));
    let expected =
        json!({ "python_tools": [tool, "def f(): ..."], "custom_instructions": "Be kind." });
    assert_eq!(Value::Object(request.variables), expected);
    for (given, code) in [
        (json!(1), "invalid_value"),
        (json!({ "enable_thinking": "yes" }), "invalid_value"),
        (json!({ "messages": [] }), "setting"),
        (json!({ "tools": [] }), "setting"),
        (json!({ "xml_tools": "now" }), "setting"),
    ] {
        assert_eq!(refused(kwargs(given)), (code.into(), "chat_template_kwargs".into()));
    }
    // the two formats of tools, OpenAI's list in either
    let wrapped = json!({ "type": "function", "function": tool });
    let with = |name: &str, value: Value| {
        let mut body = kwargs(json!({ "python_tools": [tool] }));
        body["tools"] = json!([wrapped]);
        body[name] = value;
        body
    };
    let both = read(with("n", json!(1))).unwrap();
    assert_eq!((both.tools.len(), both.variables.len()), (1, 1));
    let none = read(with("tool_choice", json!("none"))).unwrap();
    assert_eq!((none.tools.len(), none.variables.len()), (0, 0));
    let twice = with("chat_template_kwargs", json!({ "xml_tools": [tool] }));
    assert_eq!(refused(twice).1, "chat_template_kwargs");
    let schema = with("response_format", json!({ "type": "json_object" }));
    assert_eq!(refused(schema).1, "response_format");
    let python = json!({ "tools": [wrapped], "deltamem": { "tool_format": "python" } });
    assert_eq!(read(python.clone()).unwrap().extension.tool_format, ToolFormat::Python);
    let mut forced = python;
    forced["tool_choice"] = json!("required");
    assert_eq!(refused(forced).1, "tool_choice");
    assert_eq!(refused(json!({ "deltamem": { "tool_format": "yaml" } })).1, "deltamem");
}

#[test]
fn calls_can_be_required_and_one_after_the_other() {
    let tool = |name: &str| json!({ "type": "function", "function": { "name": name } });
    let tools = json!([tool("a"), tool("b")]);
    let calls = |extra: Value| {
        let mut extra = extra;
        extra["tools"] = tools.clone();
        let request = read(extra).unwrap();
        assert_eq!(request.tools.len(), 2);
        match request.settings.constraint {
            None => (Vec::new(), 0, request.settings.max_tool_calls),
            Some(Constraint::ToolCalls { tools, most }) => {
                (tools, most, request.settings.max_tool_calls)
            }
            Some(other) => panic!("{other:?}"),
        }
    };
    let both = vec![tool("a"), tool("b")];
    let named = json!({ "type": "function", "function": { "name": "b" } });
    for (extra, expected) in [
        (json!({}), (Vec::new(), 0, None)),
        (json!({ "tool_choice": "auto", "parallel_tool_calls": true }), (Vec::new(), 0, None)),
        (json!({ "parallel_tool_calls": false }), (Vec::new(), 0, Some(1))),
        (json!({ "tool_choice": "required" }), (both.clone(), MAX_CALLS, None)),
        (
            json!({ "tool_choice": "required", "parallel_tool_calls": false }),
            (both.clone(), 1, Some(1)),
        ),
        (json!({ "tool_choice": named }), (vec![tool("b")], 1, Some(1))),
    ] {
        assert_eq!(calls(extra.clone()), expected, "{extra}");
    }
    for wrong in [
        json!("always"),
        json!({ "type": "function", "function": { "name": "c" } }),
        json!({ "type": "custom", "custom": { "name": "a" } }),
        json!({ "type": "function" }),
        json!(1),
    ] {
        let body = json!({ "tools": tools, "tool_choice": wrong });
        assert_eq!(refused(body), ("invalid_value".into(), "tool_choice".into()), "{wrong}");
    }
}

#[test]
fn replies_are_held_to_formats_and_not_to_tools_as_well() {
    let schema = json!({ "type": "object", "properties": { "city": { "type": "string" } } });
    let format = json!({ "type": "json_schema", "json_schema": { "name": "x", "schema": schema } });
    let request = read(json!({ "response_format": format })).unwrap();
    assert_eq!(request.settings.constraint, Some(Constraint::JsonSchema(schema)));
    let any = read(json!({ "response_format": { "type": "json_object" } })).unwrap();
    assert_eq!(any.settings.constraint, Some(Constraint::JsonObject));
    let text = read(json!({ "response_format": { "type": "text" } })).unwrap();
    assert_eq!(text.settings.constraint, None);
    let tool = json!({ "type": "function", "function": { "name": "now" } });
    let both = json!({ "response_format": format, "tools": [tool] });
    assert_eq!(refused(both).1, "response_format");
    let none = json!({ "response_format": format, "tools": [tool], "tool_choice": "none" });
    assert!(read(none).unwrap().tools.is_empty());
    assert_eq!(read(json!({ "tools": [tool] })).unwrap().tools, [tool]);
    for bad in [json!({ "type": "function" }), json!({ "type": "retrieval" }), json!(1)] {
        assert_eq!(refused(json!({ "tools": [bad] })).1, "tools[0]");
    }
}

#[test]
fn histories_keep_calls_results_and_thoughts() {
    let request = read(json!({ "messages": [
        { "role": "developer", "content": [{ "type": "text", "text": "Be " }, { "type": "text", "text": "brief." }] },
        { "role": "user", "content": "Weather?", "name": "ada" },
        { "role": "assistant", "content": null, "reasoning_content": "Hm.", "tool_calls": [
            { "id": "c1", "type": "function", "function": { "name": "weather", "arguments": "{\"city\":\"Oslo\"}" } } ] },
        { "role": "tool", "tool_call_id": "c1", "content": "" },
    ]})).unwrap();
    let [system, user, assistant, tool] = &request.history[..] else { panic!("{request:?}") };
    assert_eq!((system.role, system.content.as_str()), (Role::System, "Be brief."));
    assert_eq!(user.content, "Weather?");
    assert_eq!(assistant.reasoning.as_deref(), Some("Hm."));
    assert_eq!(assistant.tool_calls[0].arguments["city"], "Oslo");
    assert_eq!((tool.name.as_deref(), tool.content.as_str()), (Some("weather"), "(no output)"));

    let image = json!([{ "type": "image_url", "image_url": { "url": "data:" } }]);
    for (message, param) in [
        (json!({ "role": "user", "content": image }), "messages[0].content[0]"),
        (json!({ "role": "user", "content": 1 }), "messages[0].content"),
        (json!({ "role": "robot", "content": "a" }), "messages[0]"),
        (json!({ "content": "a" }), "messages[0]"),
        (json!("a"), "messages[0]"),
        (json!({ "role": "assistant", "content": "a" }), "messages"),
        (json!({ "role": "user", "content": " " }), "messages"),
        (json!({ "role": "assistant", "tool_calls": [{}] }), "messages[0].tool_calls[0]"),
        (
            json!({ "role": "assistant", "tool_calls": [{ "function": { "name": "a", "arguments": "[]" } }] }),
            "messages[0].tool_calls[0]",
        ),
    ] {
        assert_eq!(refused(json!({ "messages": [message] })).1, param);
    }
}

/// The npm package passes over the same parameters; a list that only one of them knows is a bug.
#[test]
fn what_is_passed_over_is_the_same_in_the_npm_package() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/web/lib/openai-request.ts");
    let text = std::fs::read_to_string(path).unwrap();
    let list = |name: &str| -> Vec<String> {
        let (_, rest) = text.split_once(&format!("const {name} = new Set([")).unwrap();
        let (inside, _) = rest.split_once("]);").unwrap();
        inside.split('"').skip(1).step_by(2).map(str::to_string).collect()
    };
    assert_eq!(list("PASSED_OVER"), PASSED_OVER);
    // and what is read there is read here
    for name in list("READ") {
        let refused = refuse_unsupported(&name, &serde_json::json!(1));
        assert!(refused.is_ok(), "{name}");
    }
}
