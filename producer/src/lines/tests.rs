//! Lines that are jobs, and lines that are refused.

use super::*;

fn catalog() -> Catalog {
    Catalog::new(vec!["llama-3.2-1b".into(), "mistral-7b".into(), "qwen-2.5-1.5b".into()]).unwrap()
}

fn refusal(text: &str) -> String {
    read(text, "jobs.jsonl", &catalog()).unwrap_err().to_string()
}

#[test]
fn the_prompts_of_the_examples_are_read() {
    let lines = read(include_str!("../../../examples/prompts.jsonl"), "prompts.jsonl", &catalog()).unwrap();
    assert!(lines.len() >= 200);
    assert!(lines.iter().all(|line| line.body.messages.is_some() && line.body.params.max_tokens.is_some()));
}

#[test]
fn a_refusal_names_the_line_the_field_and_the_rule() {
    let good = r#"{"custom_id":"a","body":{"model":"llama-3.2-1b","prompt":"hi","stop":"x"}}"#;
    assert_eq!(read(good, "f", &catalog()).unwrap()[0].body.params.stop, ["x"]);
    for (bad, parts) in [
        (
            r#"{"custom_id":"a","body":{"model":"gpt","prompt":"hi"}}"#,
            vec!["line 1", "body.model", "`gpt`", "mistral-7b"],
        ),
        (
            r#"{"custom_id":"a","body":{"model":"mistral-7b","prompt":"hi","max_tokens":"many"}}"#,
            vec!["body.max_tokens", "many"],
        ),
        (
            r#"{"custom_id":"a","body":{"model":"mistral-7b","prompt":"hi","n":2}}"#,
            vec!["body.n", "must be 1 or left out"],
        ),
        (
            r#"{"custom_id":"a","method":"GET","body":{"model":"mistral-7b","prompt":"hi"}}"#,
            vec!["method", "POST"],
        ),
        (
            r#"{"custom_id":"a","url":"/v1/embeddings","body":{"model":"mistral-7b"}}"#,
            vec!["url", "/v1/chat/completions"],
        ),
        ("not json", vec!["line 1"]),
        ("", vec!["no line"]),
    ] {
        let said = refusal(bad);
        assert!(parts.iter().all(|part| said.contains(part)), "{bad} → {said}");
    }
    let twice = refusal(&format!("{good}\n\n{good}"));
    assert!(twice.contains("line 3") && twice.contains("`a`"), "{twice}");
}

fn short(line: &str) -> Result<Line, String> {
    let regions = ["us-east".parse().unwrap()];
    let model = catalog().find("mistral-7b").cloned();
    read_line(line, 7, &Defaults { catalog: &catalog(), regions: &regions, model })
}

#[test]
fn a_short_line_needs_a_prompt_only_and_may_say_where_and_how_urgent() {
    let line = short(r#"{"prompt":"hi"}"#).unwrap();
    assert_eq!((line.custom_id.as_str(), line.model.as_str(), line.chat), ("line-7", "mistral-7b", false));
    let line =
        short(r#"{"messages":[{"role":"user","content":"hi"}],"region":"us-east","lane":"high"}"#).unwrap();
    assert_eq!((line.region.unwrap().as_str(), line.lane, line.chat), ("us-east", Some(Lane::High), true));
}

#[test]
fn what_would_be_refused_later_is_refused_here() {
    for (bad, part) in [
        (r#"{"prompt":"x","region":"mars"}"#, "region: `mars`"),
        (r#"{"prompt":"x","temperature":3}"#, "temperature: must be 0 to 2"),
        (r#"{"prompt":"x","body":{"prompt":"y"}}"#, "outside"),
        (r#"{"custom_id":"","prompt":"x"}"#, "custom_id"),
        ("{}", "messages"),
        (r#"{"prompt":"x"} {"prompt":"y"}"#, "trailing"),
    ] {
        let said = short(bad).unwrap_err();
        assert!(said.contains(part), "{bad} → {said}");
    }
}

#[test]
fn what_changes_nothing_is_passed_over_and_what_would_is_refused() {
    let body = |more: &str| {
        short(&format!(
            r#"{{"body":{{"model":"mistral-7b","messages":[{{"role":"user","content":"hi"}}]{more}}}}}"#
        ))
    };
    for spare in [
        r#","stream":false,"n":1,"user":"u-1""#,
        r#","n":null,"stream":null,"store":false,"logprobs":false"#,
        r#","presence_penalty":0,"frequency_penalty":0.0,"parallel_tool_calls":true,"response_format":{"type":"text"}"#,
    ] {
        assert_eq!(body(spare).unwrap().body, body("").unwrap().body, "{spare}");
    }
    for (bad, part) in [
        (r#","stream":true"#, "body.stream: must be false"),
        (r#","n":2"#, "body.n: must be 1"),
        (r#","presence_penalty":0.5"#, "body.presence_penalty"),
        (r#","response_format":{"type":"json_object"}"#, "body.response_format"),
        (r#","tools":[]"#, "unknown field `tools`"),
    ] {
        let said = body(bad).unwrap_err();
        assert!(said.contains(part), "{bad} → {said}");
    }
    let content = |content: &str| {
        short(&format!(r#"{{"messages":[{{"role":"user","content":{content},"name":"Ann"}}]}}"#))
    };
    for text in [
        r#""hi""#,
        r#"[{"type":"text","text":"hi"}]"#,
        r#"[{"type":"text","text":"h"},{"type":"text","text":"i"}]"#,
    ] {
        assert_eq!(content(text).unwrap().body.messages.unwrap()[0].content, "hi", "{text}");
    }
    for bad in ["null", "7", "[]", r#"[{"type":"image_url","image_url":{"url":"x"}}]"#, r#"["hi"]"#] {
        let said = content(bad).unwrap_err();
        assert!(said.contains("messages[0].content: must be a text"), "{bad} → {said}");
    }
}

#[test]
fn a_byte_order_mark_is_no_part_of_the_first_line() {
    assert_eq!(short("\u{feff}{\"prompt\":\"hi\"}").unwrap(), short("{\"prompt\":\"hi\"}").unwrap());
    let text = "\u{feff}{\"custom_id\":\"a\",\"model\":\"mistral-7b\",\"prompt\":\"hi\"}\n";
    assert_eq!(read(text, "f", &catalog()).unwrap()[0].custom_id, "a");
}

#[test]
fn a_line_of_an_errors_file_is_a_line_again() {
    let line = r#"{"custom_id":"a","body":{"model":"mistral-7b","prompt":"x"},"error":{"class":"timeout"}}"#;
    assert_eq!(short(line).unwrap().custom_id, "a");
}
