//! What others put on a queue, case by case, and what has to become of it.

use serde_json::{Value, json};
use uuid::Uuid;

use crate::describe_queues::{Queue, TIME};

/// What has to become of a letter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    /// A row under this name.
    Stored(String),
    /// A dead letter at the first attempt, its cause with this in it.
    Dead(&'static str),
    /// Nothing: it came before.
    Repeat,
}

/// A message as a foreign client makes it.
#[derive(Clone, Debug)]
pub struct Letter {
    /// Which case, for whoever reads a failure.
    pub what: String,
    pub body: Vec<u8>,
    pub id: Option<String>,
    /// AMQP's own property; nothing elsewhere.
    pub timestamp: Option<u64>,
    /// Of CloudEvents.
    pub attributes: Vec<(&'static str, String)>,
    /// Headers of types and texts that nobody expects.
    pub odd: bool,
    /// Bytes of a further header.
    pub padding: usize,
    pub fate: Fate,
}

const CONTRACT: &str = "the body breaks the contract";

struct Table<'q> {
    queue: &'q Queue,
    letters: Vec<Letter>,
}

impl Table<'_> {
    fn push(&mut self, what: &str, body: impl Into<Vec<u8>>, fate: Fate) -> &mut Letter {
        let letter = Letter {
            what: format!("{}: {what}", self.queue.topic),
            body: body.into(),
            id: None,
            timestamp: None,
            attributes: Vec::new(),
            odd: false,
            padding: 0,
            fate,
        };
        self.letters.push(letter);
        self.letters.last_mut().expect("just pushed")
    }

    /// A letter that can never be handled, and a good one behind it.
    fn bad(&mut self, what: &str, body: impl Into<Vec<u8>>) {
        self.push(what, body, Fate::Dead(CONTRACT));
        self.good(&format!("good behind: {what}"));
    }

    fn good(&mut self, what: &str) -> &mut Letter {
        let name = name();
        let body = self.queue.good(&name);
        self.push(what, body, Fate::Stored(name))
    }

    /// A good one with `value` where the contract takes anything.
    fn good_with(&mut self, what: &str, value: &str) {
        let name = name();
        let body = self.queue.with(&name, value);
        self.push(what, body, Fate::Stored(name));
    }
}

fn name() -> String {
    Uuid::now_v7().to_string()
}

fn nested(depth: usize) -> String {
    format!("{}1{}", "[".repeat(depth), "]".repeat(depth))
}

/// All cases for `queue`, whose transport carries bodies of `largest` bytes and its dead letters, and takes `most`.
pub fn letters(queue: &Queue, largest: usize, most: usize) -> Vec<Letter> {
    let mut table = Table {
        queue,
        letters: Vec::new(),
    };
    no_contract(&mut table);
    members(&mut table);
    large_and_deep(&mut table, largest, most);
    clocks(&mut table);
    told_times(&mut table);
    envelopes(&mut table);
    repeats(&mut table);
    table.letters
}

fn no_contract(table: &mut Table<'_>) {
    let good = table.queue.good(&name());
    table.bad("no JSON", "no JSON");
    table.bad("nothing", "");
    table.bad("an array", format!("[{good}]"));
    table.bad("an array of its values", {
        let value: Value = serde_json::from_str(&good).expect("JSON");
        Value::from_iter(value.as_object().expect("an object").values().cloned()).to_string()
    });
    table.bad("a text with the body in it", json!(good).to_string());
    table.bad("null", "null");
    table.bad("half of it", &good.as_bytes()[..good.len() / 2]);
    table.bad("something behind it", format!("{good}x"));
    table.bad("two of them", format!("{good}{good}"));
    table.bad("a byte order mark", format!("\u{feff}{good}"));
    let utf16: Vec<u8> = good.encode_utf16().flat_map(u16::to_le_bytes).collect();
    table.bad("UTF-16", utf16);
    table.bad("no UTF-8", [good.as_bytes(), b"\xff\xfe\x00"].concat());
    table.bad("no UTF-8 in a text", {
        let mut body = good.clone().into_bytes();
        let at = good.find(":\"").expect("a text") + 2;
        body[at] = 0xff;
        body
    });
    table.bad("compressed", [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3]);
}

fn members(table: &mut Table<'_>) {
    let good = table.queue.good(&name());
    let value: Value = serde_json::from_str(&good).expect("JSON");
    table.bad("no members", "{}");
    table.bad("other members", r#"{"a":1,"b":[]}"#);
    for member in table.queue.members {
        let mut without = value.clone();
        without.as_object_mut().expect("an object").remove(*member);
        table.bad(&format!("without {member}"), without.to_string());
        let twice = format!("{{\"{member}\":{},{}", value[*member], &good[1..]);
        table.bad(&format!("{member} twice"), twice);
        if *member == "errorDetails" {
            continue;
        }
        let mut wrong = value.clone();
        wrong[*member] = json!({"a": [true]});
        table.bad(&format!("{member} of another type"), wrong.to_string());
    }
    table.bad("U+0000 in its name", table.queue.good(r"a\u0000b"));
    table.bad("a control character in its name", table.queue.good(r"a\u001bb"));
    table.bad("half a surrogate pair in its name", table.queue.good(r"\ud800"));
    table.bad("a raw U+0000 in its name", table.queue.good("a\0b"));
    if table.queue.free.is_some() {
        let with = |value: &str| table.queue.with(&name(), value);
        let cases = [
            ("U+0000 deep inside", with(r#"{"b":["\u0000"]}"#)),
            ("U+0000 in a key", with(r#"{"\u0000":1}"#)),
            ("half a surrogate pair inside", with(r#""\udc00""#)),
            ("a number beyond all floats", with("1e999")),
        ];
        for (what, body) in cases {
            table.bad(what, body);
        }
        table.good_with("a long number", "123456789012345678901234567890.123456789");
        table.good_with("text of many kinds", r#""é \ud83d\ude00 \" \\ \n""#);
    }
    if table.queue.free.is_some() && table.queue.topic != "order.failed" {
        table.bad(
            "text where anything goes",
            table.queue.with_instead(&name(), r#""text""#),
        );
    }
}

fn large_and_deep(table: &mut Table<'_>, largest: usize, most: usize) {
    table.bad("no room for anything else", "{".repeat(most));
    table.bad("a name as large as can be", table.queue.good(&"x".repeat(largest / 2)));
    table.bad("as many brackets as can be", "[".repeat(largest));
    if table.queue.free.is_some() {
        let with = |value: &str| table.queue.with(&name(), value);
        let (deep, deeper) = (with(&nested(200)), with(&nested(100_000)));
        table.bad("nested 200 deep", deep);
        table.bad("nested 100000 deep", deeper);
        table.good_with("nested 60 deep", &nested(60));
        table.good_with("nested 100 deep", &nested(100));
        table.good_with("a text as large as can be", &format!("\"{}\"", "x".repeat(largest)));
    }
    let name = name();
    let good = table.queue.good(&name);
    let body = format!("{{\"unknown\":{},{}", nested(100_000), &good[1..]);
    table.push("an unknown member nested 100000 deep", body, Fate::Stored(name));
}

fn clocks(table: &mut Table<'_>) {
    let milliseconds = 1_795_000_000_000;
    for timestamp in [0, 1, 7_000_000_000, milliseconds, u64::MAX / 2, u64::MAX] {
        table.good(&format!("timestamp {timestamp}")).timestamp = Some(timestamp);
    }
    let end = "9999-12-31T23:59:59.999999Z";
    let times = [
        "0000-01-01T00:00:00Z",
        "0001-01-01T00:00:00Z",
        "1969-12-31T23:59:59Z",
        end,
    ];
    for time in times.into_iter().chain(["+262142-01-01T00:00:00Z", "yesterday", ""]) {
        table.good(&format!("time {time}")).attributes = vec![("time", time.to_owned())];
    }
    for late in [end, "soon", "", "+262142-01-01T00:00:00Z"] {
        table.good(&format!("expires {late}")).attributes = vec![("expirytime", late.to_owned())];
    }
    for early in ["2001-01-01T00:00:00Z", "0001-01-01T00:00:00Z"] {
        let body = table.queue.good(&name());
        let letter = table.push(&format!("expired {early}"), body, Fate::Dead("expired"));
        letter.attributes = vec![("expirytime", early.to_owned())];
    }
}

/// Times in the body, of those contracts that have one.
fn told_times(table: &mut Table<'_>) {
    if !table.queue.good("").contains(TIME) {
        return;
    }
    for time in [
        "0001-01-01T00:00:00Z",
        "1969-12-31T23:59:59Z",
        "2100-01-01T00:00:00+14:00",
        "9999-12-31T23:59:59.999999Z",
    ] {
        let name = name();
        let body = table.queue.good(&name).replace(TIME, time);
        table.push(&format!("it says {time}"), body, Fate::Stored(name));
    }
    for time in [
        "yesterday",
        "2026-02-30T00:00:00Z",
        "0000-01-01T00:00:00Z",
        "9999-12-31T23:59:59-12:00",
        "+12026-01-01T00:00:00Z",
    ] {
        let body = table.queue.good(&name()).replace(TIME, time);
        table.bad(&format!("it says {time}"), body);
    }
}

fn envelopes(table: &mut Table<'_>) {
    table.good("odd headers").odd = true;
    let letter = table.push("no JSON under odd headers", "under odd headers", Fate::Dead(CONTRACT));
    letter.odd = true;
    letter.timestamp = Some(u64::MAX);
    table.good("large headers").padding = 130_400;
    let letter = table.push(
        "no JSON under large headers",
        "under large headers",
        Fate::Dead(CONTRACT),
    );
    letter.padding = 130_400;
    let long = "type\0".repeat(2_000);
    for attribute in [
        "type",
        "source",
        "subject",
        "partitionkey",
        "correlationid",
        "causationid",
        "traceparent",
    ] {
        table.good(&format!("long {attribute}")).attributes = vec![(attribute, long.clone())];
        let what = format!("no JSON and a long {attribute}");
        table.push(&what, what.as_bytes(), Fate::Dead(CONTRACT)).attributes = vec![(attribute, long.clone())];
    }
    // Bytes that read like what the next one is known by.
    let name = name();
    table.push("a name alone", name.as_bytes(), Fate::Dead(CONTRACT));
    let body = table.queue.good(&name);
    table.push("good under that name", body, Fate::Stored(name));
    // Without an id the body tells them apart.
    for n in 0..2 {
        table.good(&format!("an empty id, {n}")).id = Some(String::new());
    }
}

fn repeats(table: &mut Table<'_>) {
    let long = name().repeat(300);
    for id in [name(), "not a UUID".to_owned() + &name(), long] {
        let what = format!("an id of {} bytes", id.len());
        let letter = table.good(&what);
        letter.id = Some(id.clone());
        let mut again = letter.clone();
        // An id alone proves nothing: another body under it is another message.
        for n in 0..3 {
            table.good(&format!("{what} with another body, {n}")).id = Some(id.clone());
        }
        again.what.push_str(" again");
        again.fate = Fate::Repeat;
        table.letters.push(again);
    }
    // Everything once more and the other way round, as after a lost confirm. Without an id two records of a Kafka topic
    // are two messages.
    for letter in table.letters.iter_mut().take(40) {
        letter.id = Some(name());
    }
    let first: Vec<Letter> = table.letters.iter().take(40).cloned().collect();
    for mut letter in first.into_iter().rev() {
        letter.what.push_str(", once more");
        letter.fate = Fate::Repeat;
        table.letters.push(letter);
    }
    table.good("the last one");
}
