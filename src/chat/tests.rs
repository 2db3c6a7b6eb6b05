use super::*;
use serde_json::json;

fn options() -> RenderOptions {
    RenderOptions::new(CivilDate::new(2025, 7, 4).unwrap())
}

fn render(source: &str, messages: &[Message], options: &RenderOptions) -> Result<String> {
    ChatTemplate::parse(source, Some("<s>"), Some("</s>"))?.render(messages, options)
}

/// Renders a template without messages.
fn eval(source: &str) -> String {
    render(source, &[], &options()).unwrap()
}

fn smollm3(messages: &[Message], thinking: Option<bool>, prompt: bool) -> String {
    let options =
        RenderOptions { enable_thinking: thinking, add_generation_prompt: prompt, ..options() };
    render(include_str!("smollm3_like.jinja"), messages, &options).unwrap()
}

#[test]
fn a_smollm3_like_template_renders_as_python_does() {
    let user = Message::new(Role::User, "Hi /think");
    let assistant = Message::new(Role::Assistant, "\n\nHello");
    let header = |mode: &str, custom: &str| {
        format!(
            "<|im_start|>system\n## Metadata\n\nKnowledge Cutoff Date: June 2025\nToday Date: 04 July 2025\nReasoning Mode: {mode}\n\n## Custom Instructions\n\n{custom}\n\n"
        )
    };
    let turn = "<|im_start|>user\nHi /think<|im_end|>\n";
    // `system_message` is undefined here, and `in` finds nothing in it.
    assert_eq!(
        smollm3(&[user.clone(), assistant.clone()], Some(false), false),
        header("/no_think", "⟦2⟧")
            + turn
            + "<|im_start|>assistant\n<think>\n\n</think>\nHello<|im_end|>\n"
    );
    assert_eq!(
        smollm3(&[user.clone(), assistant], None, true),
        header("/think", "⟦1⟧")
            + turn
            + "<|im_start|>assistant\nHello<|im_end|>\n<|im_start|>assistant\n"
    );
    // The system message wins over the flag.
    let system = Message::new(Role::System, "Be kind. /no_think  ");
    assert_eq!(
        smollm3(&[system, user.clone()], Some(true), true),
        header("/no_think", "Be kind.") + turn + "<|im_start|>assistant\n<think>\n\n</think>\n"
    );
    let system = Message::new(Role::System, "Only this. /system_override /think");
    assert_eq!(
        smollm3(&[system, user], Some(false), false),
        format!("<|im_start|>system\nOnly this.<|im_end|>\n{turn}")
    );
}

#[test]
fn what_a_template_raises_is_the_error() {
    let messages = [Message::new(Role::Tool, "42")];
    let source =
        "{% for m in messages %}{{ raise_exception('no tools, said ' ~ m.role) }}{% endfor %}";
    let error = render(source, &messages, &options()).unwrap_err();
    assert_eq!(error.code(), "template");
    assert!(error.to_string().contains("no tools, said tool"), "{error}");
}

#[test]
fn objects_are_shown_as_python_shows_them() {
    let extra = json!({ "x": { "a": "it's", "b": [1, 0.5, true, null] } });
    let options = RenderOptions { extra: extra.as_object().unwrap().clone(), ..options() };
    let shown = "{'a': \"it's\", 'b': [1, 0.5, True, None]}";
    for source in ["{{ x }}", "{{ x | string }}", "{{ '' ~ x }}", "{{ [x] | join }}"] {
        assert_eq!(render(source, &[], &options).unwrap(), shown, "{source}");
    }
    assert_eq!(eval("{{ 1 ~ none ~ true ~ 'é' ~ nothing ~ 1e20 }}"), "1NoneTrueé1e+20");
    assert_eq!(eval("{{ ['a', 1] | join(', ') }}{{ [] ~ {} }}"), "a, 1[]{}");
    assert_eq!(eval("{{ [1e-7, 1.0] | tojson }}"), "[1e-07, 1.0]");
}

#[test]
fn tools_are_told_in_the_format_that_is_asked_for() {
    let source = "{{ tools }}|{{ xml_tools }}|{{ python_tools }}";
    let tool = json!({ "name": "f" });
    let with = |tool_format, source: &str| {
        let tools = Some(tool_descriptions(vec![tool.clone()]).unwrap());
        render(source, &[], &RenderOptions { tools, tool_format, ..options() })
    };
    let wrapped = "[{'type': 'function', 'function': {'name': 'f'}}]";
    let bare = "[{'name': 'f'}]";
    let shown = |format| with(format, source).unwrap();
    assert_eq!(shown(ToolFormat::Template), format!("{wrapped}|{bare}|"));
    assert_eq!(shown(ToolFormat::Xml), format!("None|{bare}|"));
    assert_eq!(shown(ToolFormat::Python), format!("None||{bare}"));
    // a template that knows one format only
    assert_eq!(with(ToolFormat::Xml, "{{ tools }}").unwrap(), wrapped);
    let error = with(ToolFormat::Python, "{{ tools }}").unwrap_err();
    assert_eq!(error.code(), "setting");
    // a caller's own lists win, and are known as tools
    let extra = json!({ "xml_tools": [tool], "python_tools": ["def g(): ...", { "name": "g" }] });
    let options = RenderOptions { extra: extra.as_object().unwrap().clone(), ..options() };
    assert_eq!(
        render(source, &[], &options).unwrap(),
        format!("None|{bare}|['def g(): ...', {{'name': 'g'}}]")
    );
    assert_eq!(options.described_tools().len(), 3);
}

#[test]
fn variables_cannot_take_the_place_of_what_is_given_anyway() {
    let check = |variables: serde_json::Value| check_variables(variables.as_object().unwrap());
    assert!(
        check(json!({ "custom_instructions": "x", "xml_tools": [], "python_tools": null })).is_ok()
    );
    for name in ["messages", "tools", "enable_thinking", "strftime_now", "bos_token"] {
        assert_eq!(check(json!({ name: 1 })).unwrap_err().code(), "setting", "{name}");
    }
    assert!(check(json!({ "xml_tools": "f" })).is_err());
}

#[test]
fn calls_that_a_template_passes_over_are_shown_as_they_are_written() {
    let arguments = json!({ "city": "O'Hare é", "days": [1, null] });
    let call = ToolCall {
        name: "weather".into(),
        arguments: arguments.as_object().unwrap().clone(),
        id: None,
    };
    let now = ToolCall { name: "now".into(), arguments: Default::default(), id: None };
    let message =
        Message { tool_calls: vec![call.clone(), now], ..Message::new(Role::Assistant, "I look.") };
    let source = "{% for m in messages %}{{ m.content }}{% endfor %}{{ python_tools }}";
    let json = "<tool_call>\n{\"name\": \"weather\", \"arguments\": {\"city\": \"O'Hare é\", \"days\": [1, null]}}\n</tool_call>\n<tool_call>\n{\"name\": \"now\", \"arguments\": {}}\n</tool_call>";
    let shown = |message: &Message, tool_format| {
        let options = RenderOptions { tool_format, ..options() };
        render(source, std::slice::from_ref(message), &options).unwrap()
    };
    assert_eq!(shown(&message, ToolFormat::Template), format!("I look.\n{json}"));
    let python = "I look.\n<code>\nweather(city=\"O'Hare é\", days=[1, None])\nnow()\n</code>";
    assert_eq!(shown(&message, ToolFormat::Python), python);
    // no name of Python's
    let mut odd = message.clone();
    odd.tool_calls.truncate(1);
    odd.tool_calls[0].arguments.insert("a-b".into(), json!(1));
    assert!(shown(&odd, ToolFormat::Python).contains("<tool_call>"));
    // what is written is what is read
    let tools = [json!({ "name": "weather" }), json!({ "name": "now" })];
    for text in [json, &python["I look.\n".len()..]] {
        let mut splitter = crate::tool_calls::ToolCallSplitter::new(&tools);
        assert_eq!(splitter.push(text).trim(), "");
        assert_eq!(splitter.calls(), message.tool_calls, "{text}");
    }
    // a template that shows calls, and one that takes offence
    let own = "{% for m in messages %}{{ m.content }}{% for c in m.tool_calls %}<{{ c.function.name }}>{% endfor %}{% endfor %}";
    let plain = options();
    assert_eq!(
        render(own, std::slice::from_ref(&message), &plain).unwrap(),
        "I look.<weather><now>"
    );
    let strict = "{% if messages | length > 1 %}{{ raise_exception('two') }}{% endif %}{{ messages[0].content }}";
    assert_eq!(render(strict, &[message], &plain).unwrap(), "I look.");
}

#[test]
fn tools_and_extra_variables_arrive() {
    let tool = json!({"name": "f", "z": [1, 2.5, true, null], "a": {"é": "<'&\"\n"}});
    let with = |tools| RenderOptions {
        tools,
        extra: [("x".to_string(), json!({"k": "v"}))].into_iter().collect(),
        ..options()
    };
    let source = "{{ bos_token }}{{ x.k }}{% for t in tools or [] %}{{ t | tojson }}{% endfor %}{{ tools is none }}{{ eos_token }}";
    assert_eq!(
        render(source, &[], &with(Some(vec![tool]))).unwrap(),
        r#"<s>v{"name": "f", "z": [1, 2.5, true, null], "a": {"é": "<'&\"\n"}}False</s>"#
    );
    assert_eq!(render(source, &[], &with(None)).unwrap(), "<s>vTrue</s>");
}

#[test]
fn tojson_is_json_dumps() {
    assert_eq!(eval("{{ [1, 'é'] | tojson }}"), r#"[1, "é"]"#);
    assert_eq!(eval("{{ 'é🦊' | tojson(ensure_ascii=true) }}"), r#""\u00e9\ud83e\udd8a""#);
    assert_eq!(
        eval("{{ {'b': [], 'a': [1, {}]} | tojson(indent=2, sort_keys=true) }}"),
        "{\n  \"a\": [\n    1,\n    {}\n  ],\n  \"b\": []\n}"
    );
    assert_eq!(eval("{{ {'a': 1} | tojson(separators=(',', ':')) }}"), r#"{"a":1}"#);
    assert_eq!(eval("{{ 1.0 | tojson }}{{ true | tojson }}{{ none | tojson }}"), "1.0truenull");
    assert!(render("{{ nothing | tojson }}", &[], &options()).is_err());
}

#[test]
fn python_methods_and_blocks_work() {
    assert_eq!(eval("{{ ' a\n'.strip() ~ '\n\nb'.lstrip('\n') ~ 'cx'.rstrip('x') }}"), "abc");
    assert_eq!(eval("{{ 'a,b'.split(',')[-1] ~ 'xy'.startswith('x') }}"), "bTrue");
    assert_eq!(eval("{{ 'prefix'.removeprefix('pre') ~ {'k': 1}.get('k') }}"), "fix1");
    assert_eq!(
        eval("{% for i in [1, 2, 3] %}{% if i == 2 %}{% break %}{% endif %}{{ i }}{% endfor %}"),
        "1"
    );
    assert_eq!(
        eval(
            "{% set ns = namespace(n=0) %}{% for i in [1, 2] %}{% set ns.n = ns.n + i %}{% endfor %}{{ ns.n }}"
        ),
        "3"
    );
    assert_eq!(eval("{{ [1, 2, 3][::-1] | join('') }}{{ 'x' in undefined_name }}"), "321False");
    // trim_blocks and lstrip_blocks, and no newline kept at the end.
    assert_eq!(eval("a\n  {% if true %}\nb\n  {% endif %}\nc\n"), "a\nb\nc");
    assert_eq!(eval("a {%- generation -%} b {% endgeneration %} c"), "ab  c");
    assert_eq!(eval("{{ '<b>' }}"), "<b>");
    assert_eq!(eval("{{ strftime_now('%Y-%m-%d') }}"), "2025-07-04");
}

#[test]
fn reasoning_is_shown_if_the_template_asks() {
    let message = Message { reasoning: Some("hm".into()), ..Message::new(Role::Assistant, "yes") };
    let source = "{% for m in messages %}{{ m.reasoning_content }}{{ m['content'] }}{% endfor %}";
    let messages = [message, Message::new(Role::User, "ok")];
    assert_eq!(render(source, &messages, &options()).unwrap(), "hmyesok");
    let json = serde_json::to_string(&messages).unwrap();
    assert_eq!(
        json,
        r#"[{"role":"assistant","content":"yes","reasoning":"hm"},{"role":"user","content":"ok"}]"#
    );
    assert_eq!(serde_json::from_str::<Vec<Message>>(&json).unwrap(), messages);
}

#[test]
fn tool_calls_and_results_arrive_as_in_transformers() {
    let json = r#"[{"role":"assistant","content":"","toolCalls":[{"name":"weather","arguments":{"z":1,"a":"é"},"id":"c1"}]},{"role":"tool","content":"rain","toolCallId":"c1","name":"weather"}]"#;
    let messages: Vec<Message> = serde_json::from_str(json).unwrap();
    assert_eq!(serde_json::to_string(&messages).unwrap(), json);
    let source = "{% for m in messages %}{{ m.role }}{% if m.tool_calls %}{% for c in m.tool_calls %} {{ c.type }} {{ c.id }} {{ c.function.name }} {{ c.function.arguments | tojson }}{% endfor %}{% endif %} {{ m.tool_call_id }} {{ m.name }}|{% endfor %}";
    assert_eq!(
        render(source, &messages, &options()).unwrap(),
        r#"assistant function c1 weather {"z": 1, "a": "é"}  |tool c1 weather|"#
    );
    let plain = Message::new(Role::Assistant, "no call");
    assert_eq!(render(source, &[plain], &options()).unwrap(), "assistant  |");
}

#[test]
fn tools_are_wrapped_once_and_must_have_names() {
    let bare = json!({"name": "f", "parameters": {}});
    let whole = json!({"type": "function", "function": bare});
    let tools = tool_descriptions(vec![bare.clone(), whole.clone()]).unwrap();
    assert_eq!(tools, [whole.clone(), whole]);
    let with = RenderOptions { tools: Some(tools), ..options() };
    let source = "{% for t in xml_tools %}{{ t.name }}{% endfor %}";
    assert_eq!(render(source, &[], &with).unwrap(), "ff");
    for bad in [json!({}), json!("f"), json!({"name": ""}), json!({"function": {"name": 1}})] {
        assert_eq!(tool_descriptions(vec![bad]).unwrap_err().code(), "setting");
    }
}

#[test]
fn hostile_templates_end_in_an_error() {
    let hostile = [
        "{% for",
        "{{ 1 / 0 }}",
        "{{ undefined_name.attribute }}",
        "{{ open('/etc/passwd') }}",
        "{% include '/etc/passwd' %}",
        "{% extends 'other' %}",
        "{% import 'other' as o %}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "{% for a in range(100000) %}{% for b in range(100000) %}{% endfor %}{% endfor %}",
        "{{ 'x' * 20000000 }}",
        "{{ 'x' * 99999999999 }}",
        "{% for a in range(100000) %}{{ 'x' * 1000 }}{% endfor %}",
        "{% set ns = namespace(s='x') %}{% for i in range(60) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}",
        "{% set ns = namespace(s='x') %}{% for i in range(60) %}{% set ns.s = ns.s + ns.s %}{% endfor %}",
        "{% set ns = namespace(s=['x']) %}{% for i in range(60) %}{% set ns.s = ns.s + ns.s %}{% endfor %}",
        "{% set ns = namespace(s=['x']) %}{% for i in range(60) %}{% set ns.s = [ns.s, ns.s] %}{% endfor %}{{ ns.s }}",
        "{% set ns = namespace(s='xx') %}{% for i in range(60) %}{% set ns.s %}{{ ns.s }}{{ ns.s }}{% endset %}{% endfor %}",
        "{% set ns = namespace(s='xx') %}{% for i in range(60) %}{% set ns.s = ns.s.replace('x', ns.s) %}{% endfor %}",
        "{% set ns = namespace(s='xx') %}{% for i in range(60) %}{% set ns.s = ns.s | replace('x', ns.s) %}{% endfor %}",
        "{% set ns = namespace(s='xx') %}{% for i in range(60) %}{% set ns.s = ns.s.join(ns.s | list) %}{% endfor %}",
        "{% set ns = namespace(s='xx') %}{% for i in range(60) %}{% set ns.s = ns.s | join(ns.s) %}{% endfor %}",
        "{% macro d(s, n) %}{{ d(s ~ s, n - 1) if n else s }}{% endmacro %}{{ d('x', 60) }}",
        "{{ '{:999999999}'.format('x') }}",
        "{{ '%999999999d' | format(1) }}",
        "{{ [1] * 1000000000 | length }}{{ ([1] * 1000000000) | list | length }}",
        "{{ 'x' * 9 * 9 * 9 * 9 * 9 * 9 }}",
        "{% block b %}{% endblock %}",
        "{{ strftime_now('%Q') }}",
        "{{ strftime_now(1, 2) }}",
        "{{ 'x'.unknown() }}",
        "{{ {} | tojson(indent='x') }}",
        "{{ ''.__class__.__mro__ }}",
    ];
    let literal = "x".repeat(1 << 19);
    let repeated = format!("{{% for a in range(99999) %}}{literal}{{% endfor %}}");
    let captured = format!("{{% set s %}}{repeated}{{% endset %}}");
    for source in hostile.into_iter().chain([&*repeated, &*captured]) {
        let shown = &source[..source.len().min(200)];
        let start = std::time::Instant::now();
        match render(source, &[], &options()) {
            Ok(text) => panic!("{} bytes from {shown}", text.len()),
            Err(error) => assert_eq!(error.code(), "template", "{shown}"),
        }
        // A second on a quiet machine, with room for a busy one.
        assert!(start.elapsed().as_secs() < 5, "{shown}");
        println!("{:?} {shown}", start.elapsed());
    }
    let nested = "{{ ".to_string() + &"(".repeat(100_000);
    assert!(ChatTemplate::parse(&nested, None, None).is_err());
    let nested = "{% if true %}".repeat(50_000);
    assert!(ChatTemplate::parse(&nested, None, None).is_err());
    assert!(ChatTemplate::parse(&"x".repeat(MAX_TEMPLATE_BYTES + 1), None, None).is_err());
}
