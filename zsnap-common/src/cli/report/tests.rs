//! Tests of the forms of a report.

use super::*;

const BAD: Cell = Cell::State("bad", &["good", "bad"], Tone::Bad);

fn report() -> Report {
    Report {
        columns: vec![
            Column::new("dataset", "DATASET").label("dataset"),
            Column::new("waiting", "WAITING").metric("waiting_bytes", "What waits."),
            Column::new("oldest", "").metric("oldest_timestamp_seconds", "When the oldest was queued."),
            Column::new("age", "AGE"),
            Column::new("", "STATE").metric("state", "Whether it is so."),
        ],
        rows: vec![
            vec![Cell::Text("laptop/tank".into()), Cell::Bytes(1536), Cell::Ago(9_939), Cell::Age(9_939), BAD],
            vec![Cell::Text("h/\x1b\"x".into()), Cell::Bytes(0), Cell::None, Cell::None, Cell::None],
        ],
        metric: "zsnap_queue",
        now: 100_000,
        succeeded: Some(99_999),
    }
}

#[test]
fn a_table_is_aligned_and_has_no_control_characters() {
    let text = report().render(Form::Table);
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[0], "DATASET      WAITING    AGE  STATE");
    assert_eq!(lines[1], "laptop/tank  1.5 KiB  1d 1h  bad");
    assert_eq!(lines[2], "h/\\x1b\"x         0 B      -  -");
}

#[test]
fn a_future_time_is_shown_as_one() {
    let now = 100_000;
    let shown = |cell: Cell| (cell.shown(now, false), cell.json(now));
    assert_eq!(shown(Cell::Ago(96_400)), ("1h 0m ago".into(), 96_400.into()));
    assert_eq!(shown(Cell::Age(96_400)), ("1h 0m".into(), 3600.into()));
    assert_eq!(shown(Cell::Ago(now)).0, "0s ago");
    assert_eq!(shown(Cell::Ago(200_000)), ("in 1d 3h".into(), 200_000.into()));
    assert_eq!(shown(Cell::Age(200_000)), ("in 1d 3h".into(), Value::Null));
    assert_eq!(shown(Cell::Ago(u64::MAX)).0.split(' ').next(), Some("in"));
}

#[test]
fn notes_are_printed_below_the_table() {
    let mut report = report();
    report.columns.insert(1, Column::new("remedy", ""));
    report.rows[0].insert(1, Cell::Note("look\nhere".into()));
    report.rows[1].insert(1, Cell::Note(String::new()));
    let text = report.render(Form::Table);
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[0], "DATASET      WAITING    AGE  STATE");
    assert_eq!(lines[3..], ["laptop/tank: look\\nhere"], "{text}");
    let value: Value = serde_json::from_str(&report.render(Form::Json)).unwrap();
    assert_eq!(value[0]["remedy"], "look\nhere");
    assert!(value[1]["remedy"].is_null());
    assert!(!report.render(Form::Prometheus).contains("remedy"));
}

#[test]
fn json_is_ascii_and_keeps_all_values() {
    let mut report = report();
    report.rows[0][0] = Cell::Text("\u{9b}2J\u{7f}\u{1f600}\n".into());
    let text = report.render(Form::Json);
    assert!(text.bytes().all(|b| matches!(b, b' '..=b'~' | b'\n')), "{text}");
    let value: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(value[0]["dataset"], "\u{9b}2J\u{7f}\u{1f600}\n");
    assert_eq!(value[0]["waiting"], 1536);
    assert_eq!(value[1]["dataset"], "h/\x1b\"x");
    assert_eq!((&value[0]["oldest"], &value[0]["age"]), (&9_939.into(), &90_061.into()));
    assert!(value[1]["age"].is_null() && value[0].as_object().unwrap().len() == 4);
}

#[test]
fn prometheus_omits_unknown_values_and_escapes_labels() {
    let text = report().render(Form::Prometheus);
    let head = "# HELP zsnap_queue_waiting_bytes What waits.\n# TYPE zsnap_queue_waiting_bytes gauge\n";
    assert!(text.starts_with(head), "{text}");
    assert!(text.contains("\nzsnap_queue_oldest_timestamp_seconds{dataset=\"laptop/tank\"} 9939\n"));
    assert_eq!(text.matches("oldest_timestamp_seconds{").count(), 1);
    assert!(text.contains("{dataset=\"h/\\\\x1b\\\"x\"} 0\n"), "{text}");
    // Each state is a time series of its own, so that no label changes.
    for (state, is) in [("good", 0), ("bad", 1)] {
        let sample = format!("\nzsnap_queue_state{{dataset=\"laptop/tank\",state=\"{state}\"}} {is}\n");
        assert!(text.contains(&sample), "{text}");
    }
    assert!(text.ends_with("_seconds gauge\nzsnap_queue_last_success_timestamp_seconds 99999\n"), "{text}");
    // A name that looks like the escape of another one remains different.
    let shown = ["a\nb", "a\\nb", "a\\\\nb", "a\\\nb"].map(label_value);
    assert!((0..4).all(|i| (0..i).all(|j| shown[i] != shown[j])), "{shown:?}");
    assert!(shown.iter().all(|text| !text.contains('\n')));
    let long = |end: &str| label_value(&("\n".repeat(2000) + end));
    assert_ne!(long("a"), long("b"));
}

#[test]
fn a_future_time_is_late() {
    let (now, day) = (1_795_320_325, 86_400);
    let late = |time| is_late(time, now, Duration::from_secs(100));
    assert!(!late(now) && !late(now - 100) && late(now - 101) && late(0));
    // A clock may have been set by some hours.
    assert!(!late(now + day) && late(now + day + 1) && late(u64::MAX));
    assert_eq!((ago(now + day, now), ago(now + day + 1, now)), (Some(0), None));
}

#[test]
fn times_sizes_and_ages_have_the_largest_unit_that_fits() {
    assert_eq!((time(1_795_320_325), time(u64::MAX)), ("2026-11-22 04:05:25Z".into(), u64::MAX.to_string()));
    for (n, shown) in [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (u64::MAX, "16383.9 PiB"), (5 << 20, "5.0 MiB")]
    {
        assert_eq!(bytes(n), shown);
    }
    for (n, shown) in [(0, "0s"), (59, "59s"), (60, "1m"), (3600, "1h 0m"), (86_400, "1d 0h")] {
        assert_eq!(age(n), shown);
    }
}
