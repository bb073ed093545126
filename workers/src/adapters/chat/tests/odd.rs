//! What servers write that no description knows: each kind was met by somebody, with its neighbours.

use super::*;

/// The text told piece by piece and the text of the result are `text`.
fn check_text(stream: &str, text: &str, finish: &str) {
    let (transcript, told) = read(stream);
    let success = transcript.outcome(&chat()).unwrap_or_else(|failure| panic!("{failure:?}: {stream}"));
    assert_eq!((success.output.text.as_str(), told.as_str()), (text, text), "{stream}");
    assert_eq!(success.output.finish_reason, finish, "{stream}");
}

fn hel_lo(last: &str) -> String {
    frame(r#"{"index":0,"delta":{"content":"hel"},"finish_reason":null}"#)
        + &frame(r#"{"index":0,"delta":{"content":"lo"},"finish_reason":null}"#)
        + last
        + DONE
}

#[test]
fn a_last_frame_that_repeats_the_answer_adds_nothing() {
    for last in [
        r#"{"index":0,"message":{"role":"assistant","content":"hello"},"finish_reason":"stop"}"#,
        r#"{"index":0,"delta":{},"message":{"content":"hello"},"finish_reason":"stop"}"#,
        r#"{"index":0,"delta":{"content":""},"message":{"content":"hello"},"finish_reason":"stop"}"#,
        r#"{"index":0,"delta":null,"message":{"content":[{"type":"text","text":"hello"}]},"finish_reason":"stop"}"#,
        r#"{"index":0,"delta":{"content":"hello"},"finish_reason":"stop"}"#,
        r#"{"index":0,"delta":{},"text":"hello","finish_reason":"stop"}"#,
        r#"{"index":0,"message":{"content":"hello!"},"finish_reason":"stop"}"#,
    ] {
        check_text(&hel_lo(&frame(last)), "hello", "stop");
    }
    let own = "data: {\"object\":\"chat.completion\",\"choices\":[{\"message\":{\"content\":\"hello\"},\"finish_reason\":\"stop\"}]}\n\n";
    check_text(&hel_lo(own), "hello", "stop");
    // After the reason.
    check_text(&hel_lo(&(STOP.to_owned() + own)), "hello", "stop");
    let text = |text: &str, finish: &str| {
        frame(&format!(r#"{{"index":0,"text":"{text}","finish_reason":{finish}}}"#))
    };
    check_text(&(text("hel", "null") + &text("lo", "null") + &text("hello", "\"stop\"")), "hello", "stop");
}

#[test]
fn a_message_is_the_answer_where_no_delta_is() {
    check_text(&frame(r#"{"message":{"content":"hello"},"finish_reason":"stop"}"#), "hello", "stop");
    check_text(
        &frame(r#"{"delta":{"role":"assistant"},"message":{"content":"hello"},"finish_reason":"stop"}"#),
        "hello",
        "stop",
    );
    let message = |text: &str, finish: &str| {
        frame(&format!(r#"{{"message":{{"content":"{text}"}},"finish_reason":{finish}}}"#))
    };
    // Pieces under the name of the whole.
    check_text(&(message("hel", "null") + &message("lo", "null") + STOP), "hello", "stop");
    // The whole so far, in each.
    check_text(
        &(message("hel", "null") + &message("hello", "null") + &message("hello", "\"stop\"")),
        "hello",
        "stop",
    );
}

#[test]
fn what_is_said_twice_by_the_model_stays() {
    let ha = frame(r#"{"index":0,"delta":{"content":"ha"},"finish_reason":null}"#);
    let last = frame(r#"{"index":0,"delta":{"content":"ha"},"finish_reason":"stop"}"#);
    check_text(&format!("{ha}{ha}{ha}{STOP}"), "hahaha", "stop");
    check_text(&format!("{ha}{last}"), "haha", "stop");
}

#[test]
fn delta_and_message_both_are_one_text() {
    for choice in [
        r#"{"index":0,"delta":{"content":"hello"},"message":null,"finish_reason":"stop"}"#,
        r#"{"index":0,"message":null,"delta":{"content":"hello"},"finish_reason":"stop"}"#,
        r#"{"index":0,"delta":{"content":"hello"},"message":{"content":"hello"},"finish_reason":"stop"}"#,
        r#"{"index":0,"delta":{"content":"hello"},"message":"","text":"hello","finish_reason":"stop"}"#,
        r#"{"index":0,"delta":null,"message":{"content":"hello"},"finish_reason":"stop"}"#,
        r#"{"index":0,"delta":{"content":null},"text":"hello","finish_reason":"stop"}"#,
        r#"{"index":0,"text":"hello","delta":{},"finish_reason":"stop"}"#,
        r#"{"index":0,"delta":{"content":"x"},"delta":{"content":"hello"},"finish_reason":null,"finish_reason":"stop"}"#,
    ] {
        check_text(&frame(choice), "hello", "stop");
    }
}

#[test]
fn a_reason_in_any_words_and_any_place_is_one_end() {
    for (reason, told) in [
        ("\"eos\"", "stop"),
        ("\"STOP\"", "stop"),
        ("\"Stop\"", "stop"),
        ("\"end_turn\"", "stop"),
        ("\"COMPLETE\"", "stop"),
        ("\"MAX_TOKENS\"", "length"),
        ("\"model_length\"", "length"),
        ("\"tool_use\"", "tool_calls"),
        ("{\"type\":\"length\",\"length\":16}", "length"),
    ] {
        check_text(
            &(AIR.to_owned() + &frame(&format!(r#"{{"delta":{{}},"finish_reason":{reason}}}"#)) + DONE),
            "Air",
            told,
        );
    }
    let length = STOP.replace("stop", "length");
    // Twice; and `stop` after another; and before the last text.
    check_text(&format!("{AIR}{STOP}{STOP}{DONE}"), "Air", "stop");
    check_text(&format!("{AIR}{length}{STOP}{DONE}"), "Air", "length");
    check_text(&format!("{AIR}{STOP}{length}{DONE}"), "Air", "length");
    check_text(&format!("{STOP}{AIR}{DONE}"), "Air", "stop");
    check_text(&frame(r#"{"delta":{"content":"Air"},"finish_reason":"stop"}"#), "Air", "stop");
    for (bad, class) in [
        ("\"SAFETY\"", FailureClass::Refused),
        ("\"content_filtered\"", FailureClass::Refused),
        ("\"error\"", FailureClass::ProviderDown),
        ("\"brand_new\"", FailureClass::ProviderDown),
        ("7", FailureClass::ProviderDown),
        ("null", FailureClass::Connection),
        ("\"\"", FailureClass::Connection),
        ("{}", FailureClass::Connection),
        ("false", FailureClass::Connection),
        ("\"FINISH_REASON_UNSPECIFIED\"", FailureClass::Connection),
    ] {
        check_fails(
            &(AIR.to_owned() + &frame(&format!(r#"{{"delta":{{}},"finish_reason":{bad}}}"#)) + DONE),
            class,
        );
    }
    // A failure is not taken back by a second reason.
    check_fails(&format!("{AIR}{}{STOP}{DONE}", STOP.replace("stop", "error")), FailureClass::ProviderDown);
    check_fails(
        &format!("{AIR}{STOP}{}{DONE}", STOP.replace("stop", "content_filter")),
        FailureClass::Refused,
    );
}

#[test]
fn a_pool_may_name_reasons_and_trust_an_end() {
    let reasons = Evidence { reasons: vec!["Brand-New".to_owned()], ..Evidence::default() };
    let answer = |finish: &str| {
        format!(r#"{{"choices":[{{"message":{{"content":"Air"}},"finish_reason":{finish}}}]}}"#)
    };
    let named = whole(reasons, &answer("\"brand_new\"")).outcome(&chat()).unwrap();
    assert_eq!(named.output.finish_reason, "brand_new");
    let trust = || Evidence { trust_done: true, ..Evidence::default() };
    assert_eq!(whole(trust(), &answer("null")).outcome(&chat()).unwrap().output.finish_reason, "stop");
    assert!(whole(Evidence::default(), &answer("null")).outcome(&chat()).is_err());
    assert!(whole(trust(), r#"{"choices":[]}"#).outcome(&chat()).is_err(), "nothing is no answer");
    assert!(whole(trust(), &answer("\"abort\"")).outcome(&chat()).is_err());
    assert!(
        whole(trust(), r#"{"error":"x","choices":[{"message":{"content":"Air"}}]}"#)
            .outcome(&chat())
            .is_err()
    );
    let stream = |stream: &str| {
        let mut transcript = Transcript::with(Dialect::Vllm, trust());
        let (mut reader, mut events) = (Reader::new(10_000), Vec::new());
        reader.push(stream.as_bytes(), &mut events).unwrap();
        for event in events {
            transcript.event(event);
        }
        transcript.outcome(&chat())
    };
    assert_eq!(stream(&format!("{AIR}{DONE}")).unwrap().output.text, "Air");
    assert_eq!(stream(AIR).unwrap_err().class, FailureClass::Connection, "it was cut");
    assert_eq!(
        stream(&format!("{AIR}data: {{\"error\":\"x\"}}\n\n{DONE}")).unwrap_err().class,
        FailureClass::ProviderDown
    );
}

#[test]
fn odd_counts_spoil_no_answer_and_are_estimated() {
    for odd in [
        "-35",
        "37.25",
        "\"3\"",
        "1e30",
        "18446744073709551615",
        "null",
        "[]",
        "{\"n\":3}",
        "\"NaN\"",
        "true",
    ] {
        let usage = format!(r#""usage":{{"prompt_tokens":5,"completion_tokens":{odd}}}"#);
        let one = format!(
            "data: {{\"choices\":[{{\"delta\":{{\"content\":\"Air\"}},\"finish_reason\":\"stop\"}}],{usage}}}\n\n"
        );
        check(&format!("{one}{DONE}"), "Air", "stop", (5, 1, true));
        check(&format!("{AIR}{STOP}data: {{\"choices\":[],{usage}}}\n\n{DONE}"), "Air", "stop", (5, 1, true));
    }
    for usage in ["null", "[]", "\"7\"", "7", "[{\"prompt_tokens\":1}]", "{}"] {
        check(
            &format!("{AIR}{STOP}data: {{\"choices\":[],\"usage\":{usage}}}\n\n{DONE}"),
            "Air",
            "stop",
            (2, 1, true),
        );
    }
    check(
        &format!("{AIR}{STOP}{}{DONE}", USAGE.replace("24", "24.0").replace(":7", ":7e0")),
        "Air",
        "stop",
        (24, 7, false),
    );
    // Zeros at the end undo no count, and are none themselves.
    let zeros = USAGE.replace("24", "0").replace(":7", ":0");
    check(&format!("{AIR}{STOP}{USAGE}{zeros}{DONE}"), "Air", "stop", (24, 7, false));
    check(&format!("{AIR}{STOP}{zeros}{DONE}"), "Air", "stop", (2, 1, true));
    check(&format!("{AIR}{STOP}{}{DONE}", USAGE.replace(":7", ":0")), "Air", "stop", (24, 1, true));
}

#[test]
fn an_estimate_is_no_less_than_a_long_text_must_have() {
    let long = format!(
        r#"{{"choices":[{{"message":{{"content":"{}"}},"finish_reason":"stop"}}]}}"#,
        "word ".repeat(80)
    );
    let usage = whole(Evidence::default(), &long).outcome(&chat()).unwrap().usage;
    assert_eq!((usage.completion_tokens, usage.estimated), (50, true));
}

#[test]
fn a_frame_of_numbers_that_are_none_is_read() {
    let frame = "data: {\"choices\":[{\"delta\":{\"content\":\"NaN!\"},\"logprobs\":{\"content\":[{\"logprob\":-Infinity}]},\"finish_reason\":\"stop\"}],\"x\":NaN}\n\n";
    check_text(frame, "NaN!", "stop");
}

#[test]
fn choices_out_of_order_are_told_apart_by_their_index() {
    let of = |index: u8, text: &str, finish: &str| {
        format!(r#"{{"index":{index},"delta":{{"content":"{text}"}},"finish_reason":{finish}}}"#)
    };
    let both = frame(&format!("{},{}", of(1, "bad", "null"), of(0, "good", "null")));
    check_text(
        &format!("{both}{}{}", frame(&of(1, "", "\"stop\"")), frame(&of(0, "", "\"length\""))),
        "good",
        "length",
    );
    // The only one has another number.
    let (transcript, _) = read(&(frame(&of(1, "hel", "null")) + &frame(&of(1, "lo", "\"stop\"")) + DONE));
    assert_eq!(transcript.outcome(&chat()).unwrap().output.text, "hello");
    // Choice 1 has ended; choice 0 was cut.
    check_fails(&(frame(&of(0, "hel", "null")) + &frame(&of(1, "x", "\"stop\""))), FailureClass::Connection);
}

#[test]
fn thoughts_only_and_calls_only_are_answers() {
    for (delta, finish, told) in [
        (r#"{"reasoning_content":"so"}"#, "length", "length"),
        (r#"{"content":null,"reasoning":"so"}"#, "stop", "stop"),
        (
            r#"{"content":null,"tool_calls":[{"index":0,"id":"a","function":{"name":"f","arguments":"{}"}}]}"#,
            "tool_calls",
            "tool_calls",
        ),
        (r#"{"tool_calls":[{"index":0,"function":{"name":"f","arguments":"{}"}}]}"#, "stop", "tool_calls"),
    ] {
        let stream = frame(&format!(r#"{{"delta":{delta},"finish_reason":null}}"#))
            + &STOP.replace("stop", finish)
            + DONE;
        check(&stream, "", told, (2, 1, true));
    }
}

#[test]
fn a_character_cut_in_two_is_whole_again_in_live_output_too() {
    let piece = |text: &str| AIR.replace("Air", text);
    check_text(&format!("{}{}{STOP}", piece(r"a\ud83d"), piece(r"\ude00b")), "a😀b", "stop");
    let (transcript, told) = read(&format!("{}{STOP}", piece(r"a\ud83d")));
    assert_eq!(
        (transcript.outcome(&chat()).unwrap().output.text.as_str(), told.as_str()),
        ("a\u{fffd}", "a")
    );
}

#[test]
fn signs_of_life_and_odd_ends_say_nothing() {
    let usual = format!("{AIR}{STOP}{USAGE}");
    for end in [
        "data: [DONE]",
        "data: [DONE] \n\n",
        "data:  [DONE]\n\n",
        "data:[DONE]\n\n",
        "data: \"[DONE]\"\n\n",
        "data: [done]\n\n",
        "data: [DONE]\n\ndata: [DONE]\n\n",
        "data: [DONE]\n\ndata: {\"choices\":[{\"delta\":{\"content\":\"more\"}}]}\n\n",
        "event: done\ndata: [DONE]\n\n",
        "",
    ] {
        check(&format!("{usual}{end}"), "Air", "stop", (24, 7, false));
    }
    for life in [
        "data: : OPENROUTER PROCESSING\n\n",
        "data: ping\n\n",
        "data: {}\n\n",
        "data: null\n\n",
        "data: \"\"\n\n",
        "data: []\n\n",
        "data: {\"type\":\"ping\"}\n\n",
        "event: ping\ndata: {\"type\":\"ping\"}\n\n",
        "data: {\"choices\":null}\n\n",
        "data: {\"choices\":[]}\n\n",
        "data: {\"id\":\"x\"}\n\n",
        "id: 7\nretry: 10\n\n",
        "data: {\"choices\":[],\"prompt_filter_results\":[{}]}\n\n",
    ] {
        check(&format!("{life}{AIR}{life}{STOP}{life}{USAGE}{life}{DONE}"), "Air", "stop", (24, 7, false));
    }
    // Blank lines left out.
    check(&usual.replace("\n\n", "\n"), "Air", "stop", (24, 7, false));
    check(&usual.replace('\n', "\r"), "Air", "stop", (24, 7, false));
}

#[test]
fn an_error_in_any_shape_is_a_failure_wherever_it_stands() {
    for (error, class) in [
        (
            r#"{"error":{"message":"engine queue full","type":"rate_limit_error","code":429}}"#,
            FailureClass::RateLimited,
        ),
        (r#"{"error":"x","code":"429"}"#, FailureClass::RateLimited),
        (r#"{"choices":[],"error":{"code":"rate_limit_exceeded","message":"x"}}"#, FailureClass::RateLimited),
        (r#"{"status":429,"title":"Too Many Requests"}"#, FailureClass::RateLimited),
        (r#"{"errors":[{"code":429}]}"#, FailureClass::RateLimited),
        (r#"{"detail":"Internal Server Error"}"#, FailureClass::ProviderDown),
        (r#"{"object":"error","message":"x","code":400}"#, FailureClass::InvalidRequest),
        (
            r#"{"choices":[{"delta":{"content":""},"finish_reason":"error"}],"error":{"code":502,"message":"x"}}"#,
            FailureClass::ProviderDown,
        ),
    ] {
        for stream in [
            format!("data: {error}\n\n{DONE}"),
            format!("{AIR}data: {error}\n\n{DONE}"),
            format!("{AIR}{STOP}data: {error}\n\n{DONE}"),
            format!("{AIR}data: {error}\n\n{STOP}{DONE}"),
            format!("{AIR}event: error\ndata: {error}\n\n"),
            format!("{AIR}error: {error}\n\n{DONE}"),
            format!("{AIR}{error}\n"),
        ] {
            check_fails(&stream, class);
        }
        assert_eq!(whole(Evidence::default(), error).outcome(&chat()).unwrap_err().class, class, "{error}");
    }
}

#[test]
fn a_whole_answer_is_read_in_odd_shapes() {
    for json in [
        r#"{"choices":[{"message":{"content":"Air"},"finish_reason":"stop"}]}"#,
        "\u{feff}{\"choices\":[{\"message\":{\"content\":\"Air\"},\"finish_reason\":\"stop\"}]}\n\n",
        r#"[{"choices":[{"message":{"content":"Air"},"finish_reason":"stop"}]}]"#,
        r#"{"choices":{"message":{"content":"Air"},"finish_reason":"stop"}}"#,
        r#"{"choices":[{"message":"Air","finish_reason":"stop"}]}"#,
        r#"{"choices":[{"text":"Air","finish_reason":"stop","index":null,"logprobs":{"tokens":[]}}],"usage":null,"error":null}"#,
        r#"{"choices":[{"message":{"content":"Air"},"finishReason":"STOP"}],"created":"yesterday","id":7,"object":null}"#,
        r#"{"choices":[{"delta":{"content":"A"}}]}{"choices":[{"delta":{"content":"ir"},"finish_reason":"stop"}]}"#,
    ] {
        let success = whole(Evidence::default(), json)
            .outcome(&chat())
            .unwrap_or_else(|failure| panic!("{failure:?}: {json}"));
        assert_eq!(
            (success.output.text.as_str(), success.output.finish_reason.as_str()),
            ("Air", "stop"),
            "{json}"
        );
    }
}
