use proptest::prelude::*;

use super::*;

const ID: &str = "0198c0de-0000-7000-8000-000000000001";

const OTHER: &str = "0198c0de-0000-7000-8000-000000000002";

fn look(body: &[u8]) -> Salvage {
    let subject: JobSubject = "beacon.jobs.us-east.llama-3-2-1b.normal.acme".parse().unwrap();
    salvage(Some(&subject), JobHeaders::default(), body)
}

/// Id and mailbox are found, by their names or their default.
fn check(body: &[u8], mailbox: &str) {
    let text = String::from_utf8_lossy(body);
    assert!(serde_json::from_slice::<super::super::JobBody>(body).is_err(), "{text} is a job");
    let found = look(body);
    assert_eq!((found.id, found.mailbox), (ID.parse().ok(), mailbox.parse().ok()), "{text}");
}

#[test]
fn json_that_does_not_read_as_a_whole_still_says_where_to_complain() {
    for broken in [
        // Half a surrogate pair, a control character, a wrong escape.
        r#""prompt":"\ud83d","#,
        "\"prompt\":\"a\nb\",",
        r#""prompt":"\x41","#,
        // Wrong types, deep and shallow, and what looks like our fields in there.
        r#""prompt":7,"#,
        r#""messages":[{"role":"user","content":{"id":"no","mailbox":"no"}}],"#,
        r#""params":{"max_tokens":"many","stop":["\"","}","]"]},"#,
        // No JSON at all.
        r#""prompt":NaN,"#,
        r#""prompt":'x',"#,
        r#""prompt":"x",,"#,
        r#""labels":{"a":[1,2}},"#,
        r#""labels":{"a":1}},"#,
        r#""prompt":["x"] "live":true "#,
        r#""prompt":tru,"#,
    ] {
        check(format!(r#"{{{broken}"id":"{ID}","mailbox":"inbox"}}"#).as_bytes(), "inbox");
        check(
            format!(r#" {{ "id" : "{ID}" , "mailbox" : "acme.inbox" ,{broken}"x":0}}"#).as_bytes(),
            "inbox",
        );
        check(format!(r#"{{"id":"{ID}",{broken}"x":0}}"#).as_bytes(), "default");
    }
    check(
        &[b"{\"prompt\":\"\xff\xfe\",", format!(r#""id":"{ID}","mailbox":"inbox"}}"#).as_bytes()].concat(),
        "inbox",
    );
    check(
        &["\u{feff}{".as_bytes(), format!(r#""id":"{ID}","mailbox":"inbox"}}"#).as_bytes()].concat(),
        "inbox",
    );
    check(format!(r#"{{"id":"{ID}","mailbox":"inbox","prompt":"x"}} and more"#).as_bytes(), "inbox");
    check(format!(r#"{{"\u0069d":"{ID}","mailbox":"inbox","prompt":7}}"#).as_bytes(), "inbox");
    check(
        format!("{{'prompt': \"it's\", 'live': None, 'mailbox': 'inbox', 'id': '{ID}'}}").as_bytes(),
        "inbox",
    );
    check(format!(r#"{{"id":"{ID}","mailbox":7,"prompt":"x"}}"#).as_bytes(), "default");
    check(format!(r#"{{"id":"{ID}","mailbox":null,"prompt":7}}"#).as_bytes(), "default");
}

#[test]
fn a_mailbox_that_breaks_the_rule_is_told_in_the_default_one() {
    for name in ["Inbox", "", "a b", ">", "acme.", "acme.a.b", "Other.inbox", ".", "\\u0000"] {
        check(format!(r#"{{"id":"{ID}","mailbox":"{name}","prompt":7}}"#).as_bytes(), "default");
    }
}

#[test]
fn of_two_ids_behind_such_a_quote_neither_is_taken() {
    let other = ID.replace('1', "2");
    let body = format!(r#"{{"prompt":"he said "{{"id":"{other}"}}" twice","mailbox":"inbox","id":"{ID}"}}"#);
    let found = look(body.as_bytes());
    assert_eq!((found.id, found.mailbox), (None, "inbox".parse().ok()));
}

#[test]
fn behind_a_quote_that_is_not_escaped_id_and_mailbox_are_found() {
    let named = format!(r#""id":"{ID}","mailbox" : "inbox""#);
    for prompt in [
        r#""prompt":"he said "hi" to me""#,
        r#""prompt":"a "b""#,
        r#""prompt":"say "" "#,
        r#""prompt":"the key ":" is""#,
        r#""prompt":"a "," b""#,
        r#""prompt":"x","y":"z" ok""#,
        r#""messages":[{"role":"user","content":"a 5" disk"}]"#,
        r#""messages":[{"role":"user","content":"he said "hi""}]"#,
    ] {
        check(format!("{{{prompt},{named}}}").as_bytes(), "inbox");
        check(format!("{{{named},{prompt}}}").as_bytes(), "inbox");
    }
    // What was found before the break holds, and an id must be one.
    let nested = format!(r#"{{"prompt":"a "b", {{"id":"no"}}, {named}, "mailbox":"other"}}"#);
    check(nested.as_bytes(), "inbox");
    check(format!(r#"{{{named},"prompt":"a "b","id":"{OTHER}","mailbox":"other"}}"#).as_bytes(), "inbox");
}

#[test]
fn a_body_that_breaks_off_is_read_up_to_there() {
    let whole = format!(r#"{{"id":"{ID}","mailbox":"inbox","messages":[{{"role":"user","content":"x"}}]}}"#);
    let behind = whole.find(",\"messages").unwrap();
    for end in behind..whole.len() {
        check(&whole.as_bytes()[..end], "inbox");
    }
    // Before its mailbox was named.
    check(&whole.as_bytes()[..behind - 3], "default");
}

#[test]
fn only_a_mailbox_of_another_tenant_and_a_body_that_is_no_map_tell_nobody() {
    for body in [
        format!(r#"{{"id":"{ID}","mailbox":"other.inbox","prompt":7}}"#),
        format!(r#"["{ID}","inbox"]"#),
        String::new(),
        "\u{1}\u{2}".to_owned(),
    ] {
        assert_eq!(look(body.as_bytes()).mailbox, None, "{body}");
    }
}

#[test]
fn an_id_in_the_header_is_read_whatever_the_body_is() {
    for header in [ID.to_owned(), format!("{ID}:acme")] {
        let headers = JobHeaders { message_id: Some(&header), ..JobHeaders::default() };
        assert_eq!(salvage(None, headers, b"\xc1").id, ID.parse().ok());
    }
    let headers = JobHeaders { message_id: Some("seven"), ..JobHeaders::default() };
    assert_eq!(salvage(None, headers, format!(r#"{{"id":"{ID}"}}"#).as_bytes()).id, ID.parse().ok());
}

fn packed(text: &str) -> Vec<u8> {
    rmp_serde::to_vec(text).unwrap()
}

/// A map of id, mailbox and `value` in all orders.
fn maps(value: &[u8]) -> Vec<Vec<u8>> {
    let entries = [
        [packed("id"), packed(ID)].concat(),
        [packed("mailbox"), packed("inbox")].concat(),
        [packed("odd"), value.to_vec()].concat(),
    ];
    let heads = [vec![0x83], vec![0xde, 0, 3], vec![0xdf, 0, 0, 0, 3]];
    let orders = [[0, 1, 2], [2, 0, 1], [0, 2, 1]];
    let map = |head: &Vec<u8>, order: [usize; 3]| {
        [head.clone(), entries[order[0]].clone(), entries[order[1]].clone(), entries[order[2]].clone()]
            .concat()
    };
    heads.iter().flat_map(|head| orders.map(|order| map(head, order))).collect()
}

#[test]
fn texts_that_are_written_as_binary_data_are_read() {
    let binary = |text: &str| [&[0xc4, u8::try_from(text.len()).unwrap()], text.as_bytes()].concat();
    let entries =
        [("id", ID), ("mailbox", "inbox")].map(|(key, value)| [binary(key), binary(value)].concat());
    check(&[&[0x83][..], &entries.concat(), &packed("prompt"), &[0x07]].concat(), "inbox");
}

#[test]
fn message_pack_with_any_type_in_it_still_says_where_to_complain() {
    let with = |head: &[u8], bytes: usize| [head, &vec![0xa5; bytes]].concat();
    for value in [
        vec![0xc0],
        vec![0xc1],
        vec![0x7f],
        vec![0xe0],
        with(&[0xc4, 3], 3),
        with(&[0xc5, 1, 0], 256),
        with(&[0xc6, 0, 0, 0, 2], 2),
        // Extensions: any length, any type.
        with(&[0xc7, 0, 9], 0),
        with(&[0xc7, 5, 0xff], 5),
        with(&[0xc8, 0, 4, 1], 4),
        with(&[0xc9, 0, 0, 0, 4, 1], 4),
        with(&[0xca], 4),
        with(&[0xcb], 8),
        with(&[0xcc], 1),
        with(&[0xcf], 8),
        with(&[0xd0], 1),
        with(&[0xd3], 8),
        with(&[0xd4, 1], 1),
        with(&[0xd6, 0xff], 4),
        with(&[0xd8, 1], 16),
        with(&[0xd9, 2], 2),
        with(&[0xda, 0, 2], 2),
        with(&[0xdb, 0, 0, 0, 2], 2),
        // Nested: three values, one of them a map of one.
        vec![0x93, 0x01, 0x81, 0xa1, b'x', 0xd4, 1, 2, 0xc2],
        vec![0xdc, 0, 1, 0xc3],
        vec![0xdd, 0, 0, 0, 1, 0xc3],
        vec![0xde, 0, 1, 0x01, 0x02],
        // A text that is no UTF-8.
        vec![0xa2, 0xff, 0xfe],
    ] {
        for body in maps(&value) {
            let found = look(&body);
            assert_eq!((found.id, found.mailbox), (ID.parse().ok(), "inbox".parse().ok()), "{value:x?}");
        }
    }
    // It claims more than it holds, and breaks off.
    let long =
        [vec![0xdf, 0xff, 0xff, 0xff, 0xff], packed("id"), packed(ID), packed("odd"), vec![0xdd, 0xff, 0xff]]
            .concat();
    assert_eq!((look(&long).id, look(&long).mailbox), (ID.parse().ok(), Some(Mailbox::default())));
}

#[test]
fn nesting_without_end_costs_no_stack() {
    for open in [&b"["[..], b"{\"a\":", b"\x91", b"\x81\x01", b"\xdd\xff\xff\xff\xff"] {
        let deep = open.repeat(1_000_000 / open.len());
        let json = [format!(r#"{{"id":"{ID}","mailbox":"inbox","odd":"#).as_bytes(), &deep].concat();
        let packed = [vec![0x83], packed("id"), packed(ID), packed("odd"), deep].concat();
        assert_eq!(look(&json).mailbox, "inbox".parse().ok());
        assert_eq!(look(&packed).mailbox, Some(Mailbox::default()));
        assert_eq!((look(&json).id, look(&packed).id), (ID.parse().ok(), ID.parse().ok()));
    }
}

proptest! {
    /// However a job is broken behind its id and mailbox, or between them, they are read.
    #[test]
    fn bytes_of_any_kind_in_a_text_hide_nothing(
        noise in proptest::collection::vec(any::<u8>().prop_filter("ends the text", |b| !matches!(b, b'"' | b'\\')), 0..200),
        end in 0..400usize,
    ) {
        let text = [b"\"", &noise[..], b"\""].concat();
        let ours = format!(r#"{{"id":"{ID}","mailbox":"inbox","prompt":"#).into_bytes();
        let after = [&ours, &text[..], b"}"].concat();
        let cut = &after[..after.len().min(ours.len() + end)];
        let between = [b"{\"prompt\":", &text[..], format!(r#","mailbox":"inbox","id":"{ID}"}}"#).as_bytes()].concat();
        for body in [cut, &between] {
            let found = look(body);
            prop_assert_eq!((found.id, found.mailbox), (ID.parse().ok(), "inbox".parse().ok()));
        }
    }

    /// Any bytes are looked at without a panic, also behind the head of a map.
    #[test]
    fn any_bytes_are_looked_at(mut bytes: Vec<u8>, head in prop_oneof![Just(b'{'), 0x80..0x90u8, Just(0xde), Just(0xdf)]) {
        let _ = look(&bytes);
        bytes.insert(0, head);
        let _ = look(&bytes);
    }

    /// The tolerant look finds in a whole job what a reader finds.
    #[test]
    fn a_whole_job_reads_the_same(mailbox in proptest::option::of("[a-z]{1,9}"), prompt: String, msgpack: bool) {
        let body = super::super::JobBody {
            id: Some(ID.into()), prompt: Some(prompt), mailbox: mailbox.clone(), ..Default::default()
        };
        let codec = if msgpack { Codec::MsgPack } else { Codec::Json };
        let found = look(&codec.encode(&body).unwrap());
        let expected = mailbox.map_or_else(Mailbox::default, |name| name.parse().unwrap());
        prop_assert_eq!((found.id, found.mailbox), (ID.parse().ok(), Some(expected)));
    }
}
