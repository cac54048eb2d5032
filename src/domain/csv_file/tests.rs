use super::*;

fn sniff(bytes: &[u8]) -> Result<Layout, FileRefusal> {
    // Whole, and byte by byte: what is seen must not depend on how the network cuts it.
    let mut whole = Sniffer::new();
    let at_once = whole.feed(bytes).and_then(|()| whole.finish());
    let mut sniffer = Sniffer::new();
    let drops = bytes.chunks(1).try_for_each(|byte| sniffer.feed(byte));
    let by_drops = drops.and_then(|()| sniffer.finish());
    assert_eq!(at_once, by_drops);
    at_once
}

type Read = (u64, Result<Vec<String>, RowDamage>);

fn read_in(layout: &Layout, bytes: &[u8], chunk_bytes: usize) -> Vec<Read> {
    let mut rows = Vec::new();
    let mut cursor = Cursor::default();
    let chunks: Vec<&[u8]> = bytes.chunks(chunk_bytes).collect();
    for (place, chunk) in chunks.iter().enumerate() {
        // Another process goes on from what was stored.
        let resumed = Cursor::from_bytes(&cursor.to_bytes()).unwrap();
        assert_eq!(resumed, cursor);
        cursor = layout
            .read(resumed, chunk, place + 1 == chunks.len(), |row| {
                let fields = row.fields.map(|it| it.iter().map(str::to_owned).collect());
                rows.push((row.line, fields));
            })
            .unwrap();
    }
    rows
}

fn read(bytes: &[u8]) -> Vec<Read> {
    let layout = sniff(bytes).unwrap();
    let rows = read_in(&layout, bytes, usize::MAX);
    for chunk_bytes in 1..=bytes.len().min(40) {
        assert_eq!(
            read_in(&layout, bytes, chunk_bytes),
            rows,
            "chunks of {chunk_bytes}"
        );
    }
    rows
}

fn row(line: u64, fields: &[&str]) -> Read {
    (
        line,
        Ok(fields.iter().map(|field| (*field).to_owned()).collect()),
    )
}

fn utf16(text: &str, to_bytes: fn(u16) -> [u8; 2]) -> Vec<u8> {
    format!("\u{feff}{text}")
        .encode_utf16()
        .flat_map(to_bytes)
        .collect()
}

#[test]
fn every_encoding_and_line_end_gives_the_same_rows() {
    let text = "name,city\nZoë,Köln\n\"O'Hara, 😀\",\"two\nlines\"\n";
    let rows = [
        row(2, &["Zoë", "Köln"]),
        row(3, &["O'Hara, 😀", "two\nlines"]),
    ];
    let with_mark = [b"\xef\xbb\xbf", text.as_bytes()].concat();
    for bytes in [
        text.as_bytes(),
        &with_mark,
        &utf16(text, u16::to_le_bytes),
        &utf16(text, u16::to_be_bytes),
    ] {
        assert_eq!(read(bytes), rows);
    }
    for line_end in ["\r\n", "\r"] {
        let bytes = text.replace('\n', line_end);
        let lines = format!("two{line_end}lines");
        let rows = [row(2, &["Zoë", "Köln"]), row(3, &["O'Hara, 😀", &lines])];
        assert_eq!(read(bytes.as_bytes()), rows, "{line_end:?}");
    }
    let windows = b"name;city\r\nZo\xeb;K\xf6ln\r\n\x93so\x94;\x80 5";
    assert_eq!(sniff(windows).unwrap().encoding, Encoding::Windows1252);
    let rows = [row(2, &["Zoë", "Köln"]), row(3, &["“so”", "€ 5"])];
    assert_eq!(read(windows), rows);
}

#[test]
fn the_delimiter_is_found_in_header_and_rows() {
    use Delimiter::{Comma, Semicolon, Tab};
    let cases = [
        ("a,b,c\n1,2,3\n", Comma, 3),
        ("a;b;c\n1,5;2,5;3,5\n", Semicolon, 3),
        ("a\tb\n1,2\t3;4\n", Tab, 2),
        ("\"a,b,c\";d\n\"1,2,3\";4\n", Semicolon, 2),
        ("email\nx@example.com\n", Comma, 1),
        ("name, first;name, last\nAnn;Li\n", Semicolon, 2),
        ("\n\n a , b \n1,2\n", Comma, 2),
    ];
    for (text, delimiter, columns) in cases {
        let layout = sniff(text.as_bytes()).unwrap();
        assert_eq!(
            (layout.delimiter, layout.columns.len()),
            (delimiter, columns),
            "{text:?}"
        );
    }
    assert_eq!(sniff(b" a ,,b\n").unwrap().columns, ["a", "column_2", "b"]);
}

#[test]
fn quotes_and_blank_lines_are_read_as_spreadsheets_write_them() {
    let cases: [(&str, &[Read]); 7] = [
        (
            "a,b\n\"say \"\"hi\"\"\",\"\"\n",
            &[row(2, &["say \"hi\"", ""])],
        ),
        ("a,b\n1\" pipe,x\"y\"\n", &[row(2, &["1\" pipe", "x\"y\""])]),
        ("a,b\n\"x\" ,y\n", &[row(2, &["x ", "y"])]),
        (
            "a,b\n\n\n1,2\n\n3,4",
            &[row(4, &["1", "2"]), row(6, &["3", "4"])],
        ),
        ("a,b\n1\n2,\n", &[row(2, &["1"]), row(3, &["2", ""])]),
        ("a,b\n1,2,,\n", &[row(2, &["1", "2", "", ""])]),
        ("a,b", &[]),
    ];
    for (text, rows) in cases {
        assert_eq!(read(text.as_bytes()), rows, "{text:?}");
    }
}

#[test]
fn one_bad_line_costs_one_row() {
    let open = Err(RowDamage::OpenQuote);
    let many = Err(RowDamage::TooManyFields {
        fields: 3,
        columns: 2,
    });
    let cases: [(&str, &[Read]); 4] = [
        ("a,b\n1,2,3\n4,5\n", &[(2, many), row(3, &["4", "5"])]),
        // Open to the end of the file.
        (
            "a,b\n1,\"2\n3,4\n5,6\n",
            &[(2, open.clone()), row(3, &["3", "4"]), row(4, &["5", "6"])],
        ),
        // Closed by a later row's quote.
        (
            "a,b\n\"1,2\n3,4\n\"Li, Ann\",6\n",
            &[
                (2, open.clone()),
                row(3, &["3", "4"]),
                row(4, &["Li, Ann", "6"]),
            ],
        ),
        ("a,b\n1,\"2", &[(2, open)]),
    ];
    for (text, rows) in cases {
        assert_eq!(read(text.as_bytes()), rows, "{text:?}");
    }
}

#[test]
fn an_endless_row_is_refused_and_the_next_one_read() {
    let long = "x".repeat(3 * RECORD_BYTES_MAX);
    for text in [
        format!("a,b\n1,{long}\n3,4\n"),
        format!("a,b\n1,\"{long}\"\n3,4\n"),
        format!("a,b\n1,\"{long}\n3,4\n"),
    ] {
        let layout = sniff(text.as_bytes()).unwrap();
        for chunk_bytes in [RECORD_BYTES_MAX / 2, RECORD_BYTES_MAX + 1, text.len()] {
            let rows = read_in(&layout, text.as_bytes(), chunk_bytes);
            assert_eq!(rows.len(), 2);
            assert!(rows[0].0 == 2 && rows[0].1.is_err());
            assert_eq!(rows[1], row(3, &["3", "4"]));
        }
    }
}

#[test]
fn a_cursor_stays_small() {
    let text = format!("a,b\n1,\"{}", "x\n".repeat(RECORD_BYTES_MAX));
    let layout = sniff(text.as_bytes()).unwrap();
    let mut cursor = Cursor::default();
    for chunk in text.as_bytes().chunks(50_000) {
        cursor = layout.read(cursor, chunk, false, |_| {}).unwrap();
        assert!(cursor.to_bytes().len() <= RECORD_BYTES_MAX + 9);
    }
}

#[test]
fn a_file_that_is_no_csv_is_refused_with_what_was_seen() {
    let refusal = |bytes: &[u8]| sniff(bytes).unwrap_err();
    let cases: [(&[u8], &str, &str); 17] = [
        (b"", "empty_file", "empty"),
        (b"\xef\xbb\xbf", "empty_file", "empty"),
        (b"\n \r\n", "empty_file", "empty"),
        (b"PK\x03\x04.....................", "not_text", "Excel"),
        (b"%PDF-1.7 ...................", "not_text", "PDF"),
        (b"\x1f\x8b\x08...................", "not_text", "gzip"),
        (b"a,b\n1,\x00\n................", "not_text", "offset 6"),
        (b"a\0,\0b\0\n\0", "not_text", "byte-order mark"),
        (b"a,b\n1,\x07\n", "not_text", "0x07"),
        (b"\xff\xfe\0\0a\0\0\0", "unknown_encoding", "UTF-32"),
        (
            b"\xef\xbb\xbfa,b\nZo\xeb,1\n",
            "unknown_encoding",
            "0xeb at offset 9",
        ),
        (
            "ä,ö\nü,ß\n\u{fffd}"
                .as_bytes()
                .strip_suffix(b"\xbd")
                .unwrap(),
            "unknown_encoding",
            "UTF-8",
        ),
        (b"a,b\n\x81\x8d,1\n", "unknown_encoding", "0x81"),
        (b"\xff\xfea\0\x00\xd8b\0", "unknown_encoding", "half"),
        (b"\xff\xfea\0b", "unknown_encoding", "half"),
        (
            b"Ann,+12025550147\nBob,+12025550148\n",
            "no_header",
            "+12025550147",
        ),
        (b"Ann,ann@example.com\n", "no_header", "ann@example.com"),
    ];
    for (bytes, code, seen) in cases {
        let refusal = refusal(bytes);
        assert_eq!(refusal.code(), code, "{bytes:?}: {refusal}");
        assert!(refusal.to_string().contains(seen), "{bytes:?}: {refusal}");
    }
}

#[test]
fn a_header_that_leaves_a_column_in_doubt_is_refused() {
    let refusal = sniff(b"Phone,name,phone \n1,2,3\n").unwrap_err();
    let duplicate = FileRefusal::DuplicateColumn {
        name: "phone".into(),
        first: 1,
        second: 3,
    };
    assert_eq!(refusal, duplicate);
    assert_eq!(sniff(b",,\n1,2,3\n").unwrap_err().code(), "no_header");
    let wide = "a,".repeat(COLUMNS_MAX) + "b\n";
    assert_eq!(
        sniff(wide.as_bytes()).unwrap_err().code(),
        "too_many_columns"
    );
    let long = "x".repeat(COLUMN_NAME_CHARS_MAX + 1);
    assert_eq!(sniff(long.as_bytes()).unwrap_err().code(), "endless_header");
    assert_eq!(sniff(b"a,\"b\n1,2\n").unwrap_err().code(), "endless_header");
}

#[test]
fn a_column_is_named_as_a_template_can_write_it() {
    let cases = [
        ("Loyalty Tier", "loyalty_tier"),
        (" E-Mail (work) ", "e_mail_work"),
        ("2024 spend", "_2024_spend"),
        ("größe", "gr_e"),
        ("名前", "column_7"),
        ("", "column_7"),
    ];
    for (name, key) in cases {
        assert_eq!(key_of(name, 7), key);
    }
}

#[test]
fn words_of_encodings_are_the_same_in_rows_and_answers() {
    use poem_openapi::types::ToJSON;
    for encoding in Encoding::ALL {
        let word = serde_json::json!(encoding.as_str());
        assert_eq!(serde_json::to_value(encoding).unwrap(), word);
        assert_eq!(encoding.to_json(), Some(word));
    }
}
