use std::collections::{BTreeMap, HashSet};

use super::*;
use crate::domain::csv_file::{Cursor, Sniffer};

fn read(text: &str) -> Vec<Result<ContactDraft, RowRefusal>> {
    let mut sniffer = Sniffer::new();
    sniffer.feed(text.as_bytes()).unwrap();
    let layout = sniffer.finish().unwrap();
    let mapping = Mapping::guess(&layout.columns);
    let country = "US".parse().unwrap();
    let mut drafts = Vec::new();
    layout
        .read(Cursor::default(), text.as_bytes(), true, |row| {
            drafts.push(match row.fields {
                Ok(fields) => ContactDraft::read(fields, &mapping, country),
                Err(damage) => Err(RowRefusal::Damaged(damage)),
            });
        })
        .unwrap();
    drafts
}

#[test]
fn the_sample_file_gives_exactly_the_expected_numbers() {
    let text = include_str!("../../../tests/data/contacts-10k.csv");
    let expected = include_str!("../../../tests/data/contacts-10k.expected.json");
    let mut expected: BTreeMap<String, u64> = serde_json::from_str(expected).unwrap();

    let drafts = read(text);

    assert_eq!(Some(drafts.len() as u64), expected.remove("rows"));
    let mut seen = HashSet::new();
    let mut counts = BTreeMap::<String, u64>::new();
    for draft in &drafts {
        let word = match draft {
            Ok(draft) if seen.insert(draft.identity()) => "imported",
            Ok(_) => "duplicate",
            Err(refusal) => refusal.code(),
        };
        *counts.entry(word.into()).or_default() += 1;
    }
    assert_eq!(counts, expected);
}

#[test]
fn a_row_becomes_a_contact() {
    let drafts = read(
        "First Name,Surname,Mobile,E-Mail,Country,ZIP,Time Zone,Loyalty Tier,Phone,Empty\n\
         \" Zoë \",\"O'Hara, jr\",(205) 748-1542,Zoe@Example.com,us,02139,America/New_York,gold,x9,\n",
    );
    let draft = drafts[0].as_ref().unwrap();
    let expected = ContactDraft {
        first_name: Some("Zoë".into()),
        last_name: Some("O'Hara, jr".into()),
        phone: Some(E164::try_from("+12057481542".to_owned()).unwrap()),
        email: Some(EmailAddress::read("Zoe@Example.com").unwrap()),
        country: Some("US".into()),
        zip: Some("02139".into()),
        timezone: Some("America/New_York".into()),
        attributes: BTreeMap::from([
            ("loyalty_tier".into(), "gold".into()),
            // The second column that looks like a telephone.
            ("phone".into(), "x9".into()),
        ]),
    };
    assert_eq!(*draft, expected);
    assert_eq!(draft.name_normalized(), "zoë o'hara, jr");
    assert_eq!(
        draft.identity(),
        (Some("+12057481542"), Some("zoe@example.com"))
    );
}

#[test]
fn a_row_that_is_not_a_contact_is_refused_with_its_reason() {
    let header = "phone,email,first_name,timezone,country,note\n";
    let long_name = format!("2057481542,,{},,,\n", "x".repeat(NAME_CHARS_MAX + 1));
    let long_note = format!("2057481542,,,,,{}\n", "x".repeat(ATTRIBUTE_CHARS_MAX + 1));
    let cases = [
        (
            "12345,ann@example.com,,,,\n",
            "invalid_phone",
            Some("phone"),
            "too short",
        ),
        (
            "12345,nobody@,,,,\n",
            "invalid_phone",
            Some("phone"),
            "too short",
        ),
        (
            "2057481542,nobody@,,,,\n",
            "invalid_email",
            Some("email"),
            "after the @",
        ),
        (",,Ann,,,\n", "missing_address", None, "neither"),
        (
            "2057481542,,,Mars/Base,,\n",
            "invalid_timezone",
            Some("timezone"),
            "Mars/Base",
        ),
        (&long_name, "too_long", Some("first_name"), "200"),
        (&long_note, "too_long", Some("note"), "2000"),
        ("1,2,3,4,5,6,7\n", "malformed_row", None, "7 fields"),
        // The row's country: no such number there.
        (
            "2057481542,,,,FR,\n",
            "invalid_phone",
            Some("phone"),
            "number",
        ),
    ];
    for (row, code, field, reason) in cases {
        let refusal = read(&format!("{header}{row}")).remove(0).unwrap_err();
        assert_eq!((refusal.code(), refusal.field()), (code, field), "{row}");
        assert!(refusal.to_string().contains(reason), "{row}: {refusal}");
    }
}

#[test]
fn a_national_number_is_read_in_its_rows_country() {
    let drafts = read("phone,country\n07400 123456,GB\n07400 123456,\n2057481542,\n");
    assert_eq!(
        drafts[0].as_ref().unwrap().identity().0,
        Some("+447400123456")
    );
    assert!(drafts[1].is_err());
    assert_eq!(
        drafts[2].as_ref().unwrap().identity().0,
        Some("+12057481542")
    );
}

#[test]
fn a_mapping_must_fit_its_file() {
    use Target::{Attribute, Field, Ignored};
    let phone = || Field(ContactField::Phone);
    let tier = || Attribute("tier".into());
    assert!(Mapping::new(vec![phone(), Ignored, Ignored, tier()], 4).is_ok());
    let cases = [
        (
            vec![phone()],
            MappingRefusal::OtherColumns {
                given: 1,
                columns: 2,
            },
        ),
        (
            vec![phone(), phone()],
            MappingRefusal::Twice("phone".into()),
        ),
        (vec![tier(), tier()], MappingRefusal::Twice("tier".into())),
        (vec![tier(), Ignored], MappingRefusal::NoAddress),
        (
            vec![phone(), Attribute("My Tier".into())],
            MappingRefusal::AttributeName("My Tier".into()),
        ),
    ];
    for (targets, refusal) in cases {
        assert_eq!(Mapping::new(targets, 2), Err(refusal));
    }
}
