use super::*;
use serde_json::json;

fn tools() -> Vec<Value> {
    let schema = json!({ "type": "object", "properties": { "city": {}, "days": {} } });
    vec![
        json!({ "type": "function", "function": { "name": "weather", "parameters": schema } }),
        json!({ "name": "now", "inputSchema": { "type": "object" } }),
    ]
}

struct Split {
    text: String,
    calls: Vec<ToolCall>,
    malformed: Vec<MalformedCall>,
}

fn split(pieces: &[&str]) -> Split {
    let mut splitter = ToolCallSplitter::new(&tools());
    let mut text: String = pieces.iter().map(|piece| splitter.push(piece)).collect();
    text.push_str(&splitter.finish());
    let (calls, malformed) = splitter.into_parts();
    Split { text, calls, malformed }
}

fn call(name: &str, arguments: Value) -> ToolCall {
    let arguments = arguments.as_object().unwrap().clone();
    ToolCall { name: name.into(), arguments, id: None }
}

/// The same however the reply is cut; nothing between tags is shown before it is judged.
fn check(reply: &str, text: &str, calls: &[ToolCall]) {
    let letters: Vec<String> = reply.chars().map(String::from).collect();
    let letters: Vec<&str> = letters.iter().map(String::as_str).collect();
    let cuts = reply.char_indices().map(|(at, _)| vec![&reply[..at], &reply[at..]]);
    for pieces in cuts.chain([letters, vec![reply]]) {
        let found = split(&pieces);
        assert_eq!(found.text, text, "{pieces:?}");
        assert_eq!(found.calls, calls, "{pieces:?}");
        assert_eq!(found.malformed, [], "{pieces:?}");
    }
}

#[test]
fn json_calls_of_smollm3_and_qwen3() {
    let paris = call("weather", json!({ "city": "Paris", "days": 3 }));
    check(
        r#"<tool_call>{"name": "weather", "arguments": {"city": "Paris", "days": 3}}</tool_call>"#,
        "",
        std::slice::from_ref(&paris),
    );
    check(
        "I look.\n<tool_call>\n{\"name\": \"weather\", \"arguments\": {\"city\": \"Paris\", \"days\": 3}}\n\
         </tool_call>\n<tool_call>\n{\"name\": \"now\"}\n</tool_call> é",
        "I look.\n\n é",
        &[paris.clone(), call("now", json!({}))],
    );
    // the order of arguments stays; a list; arguments as text; tags in a string; an id
    let found =
        split(&[r#"<tool_call>{"name":"f","id":"7","arguments":{"b":1,"a":2}}</tool_call>"#]);
    assert_eq!(found.calls[0].id.as_deref(), Some("7"));
    assert_eq!(found.calls[0].arguments.keys().collect::<Vec<_>>(), ["b", "a"]);
    check(
        r#"<tool_call>[{"name":"now","arguments":"{\"x\":[1]}"},{"name":"now"}]</tool_call>"#,
        "",
        &[call("now", json!({ "x": [1] })), call("now", json!({}))],
    );
    let tag = r#"<tool_call>{"name":"now","arguments":{"x":"</tool_call>\""}}</tool_call>."#;
    check(tag, ".", &[call("now", json!({ "x": "</tool_call>\"" }))]);
    // as Python writes the same
    check(
        "<tool_call>\n{'name': 'weather', 'arguments': {'city': \"L'Aquila\", 'days': None, 'x': [True, 1e3],}}\n</tool_call>",
        "",
        &[call("weather", json!({ "city": "L'Aquila", "days": null, "x": [true, 1000.0] }))],
    );
    // the end of the reply closes a call
    for end in ["", "</tool", "\n"] {
        check(&format!("<tool_call>{{\"name\":\"now\"}}{end}"), "", &[call("now", json!({}))]);
    }
}

#[test]
fn python_calls_of_smollm3() {
    let paris = |n: i64| call("weather", json!({ "city": "Paris", "days": n }));
    for code in [
        "weather(city=\"Paris\", days=3)",
        "weather('Paris', 3)",
        "  weather(\n  city = 'Paris', # where\n  days = 3,\n)  ",
        "w = weather(\"Paris\", days=3)\nprint(w)",
        "print(weather(city='''Paris''', days=+3));",
        "# first\nweather(city='\\x50a\\u0072\\\nis', days=0_3)",
    ] {
        check(&format!("So: <code>{code}</code>!"), "So: !", &[paris(3)]);
        check(&format!("<code>\n{code}\n</code>"), "", &[paris(3)]);
    }
    check(
        "<code>weather(city='Paris', days=-3); now()\nnow(a=[1.5, (True, None)], b={'k': \"\\\"é\\q\", })</code>",
        "",
        &[
            paris(-3),
            call("now", json!({})),
            call("now", json!({ "a": [1.5, [true, null]], "b": { "k": "\"é\\q" } })),
        ],
    );
    check("<code>now(x='</code>')</code>", "", &[call("now", json!({ "x": "</code>" }))]);
}

#[test]
fn text_that_is_no_call_stays_and_nothing_panics() {
    check(
        "a < b <tool_ca <cod </code> </tool_call>",
        "a < b <tool_ca <cod </code> </tool_call>",
        &[],
    );
    let deep = format!("now(a={}1{})", "[".repeat(50), "]".repeat(50));
    let deep_json = format!("{}1{}", "[".repeat(500), "]".repeat(500));
    for inside in [
        "",
        "7",
        "[]",
        "{",
        "{\"name\":",
        "{\"name\": 3}",
        "{\"name\": \"\"}",
        "not JSON é",
        "{\"name\": \"now\", \"arguments\": [1]}",
        "{\"name\": \"now\", \"arguments\": \"x\"}",
        "{\"name\": \"now\"} {\"name\": \"now\"}",
        "{\"name\": \"no",
        "{'name': 'now'",
        "{'name': now}",
        "{'name': 'now'} {}",
        "'now'",
        "now()",
        &deep_json,
    ] {
        check_malformed(&format!("<tool_call>{inside}</tool_call>"));
    }
    for inside in [
        "",
        "x = 1",
        "print('hi')",
        "import os",
        "os.system('ls')",
        "now(",
        "now(x)",
        "now(1)",
        "now(a=1, a=2)",
        "now(a=b)",
        "now(a=f'x')",
        "now(a='x",
        "now(a=1) + 2",
        "now(a=1e999)",
        "now(a=--)",
        "now(a='\\ud800')",
        "now(a='\\uzzzz')",
        "now(a={1: 2})",
        "now() now()",
        "weather('a', 'b', 'c')",
        "weather('a', city='b')",
        "for x in y: now()",
        "now(a==1)",
        "now(é",
        "é",
        "now(a='\\",
        "=now()",
        "print(now(",
        &deep,
    ] {
        check_malformed(&format!("<code>{inside}</code>"));
    }
    // an unclosed string does not swallow the rest of the answer
    let found = split(&[
        "<tool_call>{\"name\": \"no}</tool_call>\nmore ",
        "<tool_call>{\"name\":\"now\"}</tool_call>",
    ]);
    assert_eq!((found.calls.len(), found.malformed.len()), (1, 1));
    assert_eq!(found.text, "<tool_call>{\"name\": \"no}</tool_call>\nmore ");
}

#[test]
fn a_quote_too_many_does_not_hide_the_calls_behind_it() {
    let call = "<tool_call>{\"name\":\"now\"}</tool_call>";
    let found = split(&["<code>it's</code> and ", call, " ", call]);
    assert_eq!((found.calls.len(), found.malformed.len()), (2, 1));
    assert_eq!(found.text, "<code>it's</code> and  ");
}

fn check_malformed(reply: &str) {
    for cut in reply.char_indices().map(|(at, _)| at).step_by(3) {
        let found = split(&[&reply[..cut], &reply[cut..], " after"]);
        assert_eq!(found.text, format!("{reply} after"));
        assert_eq!(found.calls, [], "{reply}");
        assert_eq!(found.malformed.len(), 1, "{reply}");
        assert!(!found.malformed[0].reason.is_empty());
    }
}

/// Random rubble of tags, quotes and brackets: no panic, and no text lost that is no call.
#[test]
fn rubble_is_harmless() {
    let parts = [
        "<tool_call>",
        "</tool_call>",
        "<code>",
        "</code>",
        "{",
        "}",
        "\"",
        "'",
        "name",
        ":",
        "now",
        "(",
        ")",
        "=",
        "\\",
        "\n",
        "é",
        "[",
        ",",
        "1",
        "<",
        "\"now\"",
        "print",
        "#",
    ];
    let mut seed = 1u64;
    for _ in 0..3000 {
        let mut pieces = Vec::new();
        for _ in 0..24 {
            seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            pieces.push(parts[(seed >> 33) as usize % parts.len()]);
        }
        let found = split(&pieces);
        if found.calls.is_empty() {
            assert_eq!(found.text, pieces.concat());
        }
    }
}
