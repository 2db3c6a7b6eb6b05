use super::*;
use rand_chacha::ChaCha12Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use regex::Regex;
use std::time::{Duration, Instant};

const EOS: u32 = 2;
/// Of the model of noise: how soon a random reply ends depends on its tokens.
const TOKENIZER: &[u8] = include_bytes!("../../tests/noise/tokenizer.json");

fn tokenizer() -> Tokenizer {
    Tokenizer::from_json(TOKENIZER).unwrap()
}

/// A few more rows than tokens, as models have.
fn vocabulary(tokenizer: &Tokenizer) -> ConstraintVocabulary {
    ConstraintVocabulary::new(tokenizer, &[EOS, u32::MAX], tokenizer.vocab_size() + 45).unwrap()
}

fn allowed(mask: &[u32]) -> Vec<u32> {
    let has_bit = |id: &u32| mask[*id as usize / 32] >> (id % 32) & 1 == 1;
    (0..32 * mask.len() as u32).filter(has_bit).collect()
}

/// A reply of random tokens that the masks allow, and whether it came to its end.
fn wander(tokenizer: &Tokenizer, matcher: &mut ConstraintMatcher, seed: u64) -> (String, bool) {
    let mut random = ChaCha12Rng::seed_from_u64(seed);
    let mut ids = Vec::new();
    for _ in 0..400 {
        let allowed = allowed(matcher.mask().unwrap());
        // the end comes sooner than chance would have it
        let is_end = allowed.contains(&EOS) && (random.next_u64().is_multiple_of(4));
        let next = match is_end {
            true => EOS,
            false => allowed[random.next_u64() as usize % allowed.len()],
        };
        if next == EOS {
            return (tokenizer.decode(&ids, false), true);
        }
        assert!(!tokenizer.is_special(next));
        matcher.accept(next).unwrap();
        ids.push(next);
    }
    (tokenizer.decode(&ids, false), false)
}

/// Every finished random reply, at least one.
fn replies(constraint: &Constraint) -> Vec<String> {
    let tokenizer = tokenizer();
    let vocabulary = vocabulary(&tokenizer);
    let all =
        (0..24).map(|seed| wander(&tokenizer, &mut constraint.matcher(&vocabulary).unwrap(), seed));
    let finished: Vec<String> = all.filter(|(_, is_done)| *is_done).map(|(text, _)| text).collect();
    assert!(!finished.is_empty(), "{constraint:?}");
    finished
}

fn json_replies(constraint: &Constraint) -> Vec<Value> {
    let parse = |text: String| match serde_json::from_str(&text) {
        // JSON, but more than f64 holds: random digits come to that
        Err(e) if e.to_string().contains("out of range") => json!({ "left": null }),
        parsed => parsed.unwrap_or_else(|e| panic!("{text}: {e}")),
    };
    replies(constraint).into_iter().map(parse).collect()
}

fn schema_replies(schema: Value) -> Vec<Value> {
    json_replies(&Constraint::JsonSchema(schema))
}

#[test]
fn a_regex_is_matched_as_a_whole() {
    for (pattern, same_in_rust) in [
        ("yes|no", "^(yes|no)$"),
        ("^(yes|no)$", "^(yes|no)$"),
        (r"\d{4}-(0[1-9]|1[0-2])-\d{2}", "^[0-9]{4}-(0[1-9]|1[0-2])-[0-9]{2}$"),
        (r"^[A-Z]\w*, \w+\.$", r"^[A-Z][0-9A-Za-z_]*, [0-9A-Za-z_]+\.$"),
        ("(?i)straße|grün{1,3}", "(?i)^(straße|grün{1,3})$"),
        ("[äöü☃]+", "^[äöü☃]+$"),
        (r"a\/b|\{\}", r"^(a/b|\{\})$"),
        ("a*", "^a*$"),
    ] {
        let expected = Regex::new(same_in_rust).unwrap();
        for text in replies(&Constraint::Regex(pattern.into())) {
            assert!(expected.is_match(&text), "{text:?} for {pattern}");
        }
    }
}

#[test]
fn json_follows_its_schema() {
    for value in schema_replies(json!({
        "type": "object",
        "properties": {
            "name": { "type": "string", "minLength": 1, "maxLength": 8 },
            "größe": { "type": "number", "minimum": 0, "maximum": 2.5 },
            "tags": { "type": "array", "items": { "enum": ["a", "é", "\"q\""] }, "maxItems": 3 },
            "inner": {
                "type": "object",
                "properties": { "n": { "type": "integer", "minimum": -5, "maximum": 5 } },
                "required": ["n"],
                "additionalProperties": false
            },
            "maybe": { "anyOf": [{ "type": "null" }, { "type": "boolean" }] }
        },
        "required": ["name", "größe", "tags", "inner"],
        "additionalProperties": false
    })) {
        let map = value.as_object().unwrap();
        let name = map["name"].as_str().unwrap().chars().count();
        assert!((1..=8).contains(&name));
        assert!((0.0..=2.5).contains(&map["größe"].as_f64().unwrap()));
        let tags = map["tags"].as_array().unwrap();
        assert!(tags.len() <= 3 && tags.iter().all(|t| t == "a" || t == "é" || t == "\"q\""));
        let inner = map["inner"].as_object().unwrap();
        assert!(inner.len() == 1 && (-5..=5).contains(&inner["n"].as_i64().unwrap()));
        let maybe = map.get("maybe");
        assert!(maybe.is_none_or(|v| v.is_null() || v.is_boolean()));
        assert_eq!(map.len(), 4 + usize::from(maybe.is_some()));
    }
    for value in schema_replies(json!({
        "$defs": { "tree": { "type": "object", "properties": {
            "left": { "anyOf": [{ "type": "null" }, { "$ref": "#/$defs/tree" }] }
        }, "required": ["left"], "additionalProperties": false } },
        "$ref": "#/$defs/tree"
    })) {
        assert!(value["left"].is_null() || value["left"]["left"] != 1);
    }
    for value in schema_replies(json!({ "type": "string", "pattern": "^\\d{3}$" })) {
        let text = value.as_str().unwrap();
        assert!(text.len() == 3 && text.bytes().all(|b| b.is_ascii_digit()), "{text}");
    }
    schema_replies(json!(true));
    assert!(json_replies(&Constraint::JsonObject).iter().all(Value::is_object));
}

#[test]
fn the_end_is_allowed_where_a_reply_may_end_and_alone_where_it_must() {
    let tokenizer = tokenizer();
    let vocabulary = vocabulary(&tokenizer);
    let matcher = |pattern: &str| Constraint::Regex(pattern.into()).matcher(&vocabulary).unwrap();
    let accept = |matcher: &mut ConstraintMatcher, text: &str| {
        tokenizer.encode(text).unwrap().into_iter().for_each(|id| matcher.accept(id).unwrap());
    };
    let mut m = matcher("ab?");
    assert!(!allowed(m.mask().unwrap()).contains(&EOS) && !m.is_complete());
    accept(&mut m, "a");
    let (b, now) = (tokenizer.encode("b").unwrap()[0], allowed(m.mask().unwrap()));
    assert!(now.contains(&EOS) && now.contains(&b) && now.len() == 2 && !m.is_complete());
    accept(&mut m, "b");
    assert!(m.is_complete());
    assert_eq!(allowed(m.mask().unwrap()), [EOS]);
    // what a mask rules out is refused
    let mut m = matcher("ab?");
    assert_eq!(m.accept(b).unwrap_err().code(), "constraint");
    // rows that stand for no token are never allowed
    let mut m = matcher("(?s).*");
    let last = allowed(m.mask().unwrap()).pop().unwrap();
    assert!((last as usize) < tokenizer.vocab_size());
}

#[test]
fn a_model_that_cannot_end_a_reply_ends_it_with_its_grammar() {
    let tokenizer = tokenizer();
    let vocabulary = ConstraintVocabulary::new(&tokenizer, &[], tokenizer.vocab_size()).unwrap();
    let mut matcher = Constraint::Regex("a".into()).matcher(&vocabulary).unwrap();
    matcher.accept(tokenizer.encode("a").unwrap()[0]).unwrap();
    assert!(matcher.is_complete());
    assert!(allowed(matcher.mask().unwrap()).is_empty());
}

/// Everything that a page may pass on unseen: refused with a reason, or held to, soon, and within
/// the stack that a page has.
#[test]
fn hostile_constraints_are_refused_or_bounded() {
    let in_thread = std::thread::Builder::new().stack_size(1 << 20);
    in_thread.spawn(hostile_constraints).unwrap().join().unwrap();
}

fn hostile_constraints() {
    let tokenizer = tokenizer();
    let vocabulary = vocabulary(&tokenizer);
    let deep = |n: usize| (0..n).fold(json!({}), |inner, _| json!({ "items": inner }));
    let long = "é".repeat(200);
    let many = |n: usize, prefix: &str| -> Value {
        let property = |i| (format!("{prefix}key {i}"), json!({ "type": "string" }));
        Value::Object((0..n).map(property).collect())
    };
    let refused = [
        Constraint::Regex("(".into()),
        Constraint::Regex(r"(a)\1".into()),
        Constraint::Regex("(?=a)b".into()),
        Constraint::Regex(r"\bword\b".into()),
        Constraint::Regex("a$b".into()),
        Constraint::Regex("[^\\s\\S]".into()),
        Constraint::Regex("x".repeat(MAX_REGEX_BYTES + 1)),
        Constraint::JsonSchema(json!(false)),
        Constraint::JsonSchema(json!(7)),
        Constraint::JsonSchema(json!({ "type": "strange" })),
        Constraint::JsonSchema(json!({ "type": "number", "minimum": long })),
        Constraint::JsonSchema(json!({ "type": "number", "minimum": format!("a{long}") })),
        Constraint::JsonSchema(json!({ "type": "string", "pattern": [long, 1] })),
        Constraint::JsonSchema(json!({ "type": "object", "required": { "a": long } })),
        Constraint::JsonSchema(json!({ "not": { "type": "string" } })),
        Constraint::JsonSchema(json!({ "type": "array", "uniqueItems": true })),
        Constraint::JsonSchema(json!({ "$ref": "https://example.com/schema" })),
        Constraint::JsonSchema(json!({ "$ref": "#/nowhere" })),
        Constraint::JsonSchema(json!({ "type": "number", "minimum": 2, "maximum": 1 })),
        Constraint::JsonSchema(json!({ "description": "x".repeat(MAX_SCHEMA_BYTES) })),
        Constraint::JsonSchema(deep(MAX_SCHEMA_DEPTH)),
        Constraint::JsonSchema(json!({ "type": "object", "properties": many(1100, "") })),
        Constraint::JsonSchema(json!({ "type": "object", "patternProperties": many(110, "^") })),
        Constraint::JsonSchema(json!({ "allOf": vec![json!({ "type": "string" }); 1100] })),
    ];
    for constraint in refused {
        let begin = Instant::now();
        let found = constraint.matcher(&vocabulary).map(drop);
        let error = found.expect_err(&format!("{constraint:?}"));
        assert_eq!(error.code(), "constraint");
        assert!(error.to_string().len() < 600, "{error}");
        assert!(begin.elapsed() < Duration::from_secs(5), "{constraint:?}");
    }
    let heavy = [
        Constraint::Regex("((a{1,100}){1,100}){1,100}".into()),
        Constraint::Regex("(a|b|ab)*c(a|b|ab)*d".into()),
        Constraint::Regex("(?:(?:a*)*)*b".into()),
        Constraint::Regex("(.*a){30}".into()),
        Constraint::Regex(r"(?i)[\p{L}]{200}".into()),
        Constraint::Regex("x{1000000}".into()),
        Constraint::Regex("(a?)".repeat(4000)),
        Constraint::Regex("x".repeat(MAX_REGEX_BYTES)),
        Constraint::Regex("ab|".repeat(5000)),
        Constraint::Regex(format!("{}a{}", "(".repeat(200), "b?)*".repeat(200))),
        Constraint::Regex(format!("{}a{}", "(".repeat(8000), ")".repeat(8000))),
        Constraint::JsonSchema(deep(MAX_SCHEMA_DEPTH - 1)),
        Constraint::JsonSchema((0..12).fold(
            json!({ "type": "null" }),
            |inner, _| json!({ "anyOf": [inner, { "type": "array", "items": inner }] }),
        )),
        Constraint::JsonSchema(json!({ "type": "array", "minItems": 4_000_000_000u64 })),
        Constraint::JsonSchema(json!({ "type": "string", "minLength": 100_000_000 })),
        Constraint::JsonSchema(json!({ "type": "object", "properties": many(1000, "") })),
        Constraint::JsonSchema(json!({ "type": "object", "patternProperties": many(90, "^") })),
        Constraint::JsonSchema(json!({ "enum": (0..20_000).collect::<Vec<u32>>() })),
        Constraint::JsonSchema(json!({ "type": "number", "multipleOf": 1e-30 })),
        Constraint::JsonSchema(json!({ "$ref": "#" })),
        Constraint::JsonSchema(json!({ "allOf": [{ "$ref": "#" }, { "$ref": "#" }] })),
        Constraint::JsonSchema(json!({ "x-guidance": { "whitespace_pattern": "(a+)+" } })),
    ];
    for constraint in heavy {
        let begin = Instant::now();
        let outcome = (|| {
            let mut matcher = constraint.matcher(&vocabulary)?;
            for _ in 0..20 {
                let next = allowed(matcher.mask()?)[0];
                if next == EOS {
                    break;
                }
                matcher.accept(next)?;
            }
            Ok(())
        })();
        if let Err(error) = outcome {
            let error: Error = error;
            assert_eq!(error.code(), "constraint", "{constraint:?}");
        }
        let text: String = format!("{constraint:?}").chars().take(100).collect();
        assert!(begin.elapsed() < Duration::from_secs(10), "{text}: {:?}", begin.elapsed());
    }
}

#[test]
fn replies_are_calls_with_the_arguments_that_their_tools_take() {
    let tools = json!([
        { "type": "function", "function": { "name": "add", "parameters": {
            "type": "object",
            "properties": { "a": { "$ref": "#/$defs/n" }, "b": { "$ref": "#/$defs/n" } },
            "required": ["a", "b"], "additionalProperties": false,
            "$defs": { "n": { "enum": [1, 2, 3] } },
        }}},
        { "name": "add_é.*", "inputSchema": { "properties": { "é": { "const": "ü" } } } },
        { "type": "function", "function": { "name": "now" } },
    ]);
    let tools = tools.as_array().unwrap().clone();
    let mut seen = std::collections::BTreeSet::new();
    for most in [1, 3] {
        for text in replies(&Constraint::ToolCalls { tools: tools.clone(), most }) {
            let mut splitter = crate::tool_calls::ToolCallSplitter::new(&tools);
            let shown = splitter.push(&text) + &splitter.finish();
            assert!(shown.trim().is_empty(), "{shown:?} of {text:?}");
            let (calls, malformed) = splitter.into_parts();
            assert!(malformed.is_empty(), "{malformed:?}");
            assert!((1..=most).contains(&calls.len()), "{text}");
            for call in calls {
                let value = |key: &str| call.arguments.get(key).cloned();
                let is_small =
                    |value: Option<Value>| value.is_some_and(|v| [1, 2, 3].iter().any(|n| v == *n));
                match call.name.as_str() {
                    "add" => assert!(is_small(value("a")) && is_small(value("b")), "{text}"),
                    "now" => {}
                    _ => assert!(value("é").is_none_or(|v| v == "ü"), "{text}"),
                }
                seen.insert((call.name, most));
            }
        }
    }
    assert!(seen.len() >= 4, "{seen:?}");
}

#[test]
fn calls_that_cannot_be_held_to_are_refused_by_the_tools_name() {
    let vocabulary = vocabulary(&tokenizer());
    let refused = |tools: Value| {
        let tools = tools.as_array().unwrap().clone();
        let matcher = Constraint::ToolCalls { tools, most: 1 }.matcher(&vocabulary);
        matcher.err().expect("refused").to_string()
    };
    for (tools, part) in [
        (json!([]), "1 to 128 tools"),
        (json!([{ "parameters": {} }]), "no name"),
        (json!([{ "name": "a", "parameters": { "type": "array" } }]), "the tool a: arguments"),
        (json!([{ "name": "a", "parameters": { "not": {} } }]), "the tool a: "),
        (json!([{ "name": "a", "parameters": 1 }]), "the tool a: a schema"),
        (json!([{ "name": "a".repeat(MAX_REGEX_BYTES) }]), "too long"),
    ] {
        let message = refused(tools);
        assert!(message.contains(part), "{message}");
    }
}
