//! Contacts by the API: lists, the search by beginnings, one contact.

use engageninja::domain::actor::Role;

use crate::harness::app::App;
use crate::harness::world::World;

async fn names(app: &App, key: &str, query: &str) -> Vec<String> {
    let page = app
        .get(key, &format!("/api/contacts?{query}"))
        .await
        .ok(200);
    let items = page["items"].as_array().unwrap();
    let name = |contact: &serde_json::Value| contact["first_name"].as_str().unwrap().to_owned();
    items.iter().map(name).collect()
}

/// The world's contacts have no normalised name; a search needs one.
async fn normalise(world: &World) {
    world
        .db
        .execute("UPDATE cell.contacts SET name_normalized = lower(first_name)")
        .await;
}

#[tokio::test]
async fn contacts_are_listed_newest_first_page_by_page() {
    let world = World::start().await;
    let (app, tenant) = App::beside(&world).await;
    let key = app.key(&tenant, Role::Viewer).await;
    world.add_contacts(5).await;
    let (mut seen, mut query) = (Vec::new(), "limit=2".to_owned());
    loop {
        let page = app
            .get(&key, &format!("/api/contacts?{query}"))
            .await
            .ok(200);
        for contact in page["items"].as_array().unwrap() {
            seen.push(contact["first_name"].as_str().unwrap().to_owned());
        }
        match page["next_cursor"].as_str() {
            Some(cursor) => query = format!("limit=2&cursor={cursor}"),
            None => break,
        }
    }
    assert_eq!(
        seen,
        ["Person4", "Person3", "Person2", "Person1", "Person0"]
    );
}

#[tokio::test]
async fn a_search_finds_names_numbers_and_addresses_by_their_beginning() {
    let world = World::start().await;
    let (app, tenant) = App::beside(&world).await;
    let key = app.key(&tenant, Role::Viewer).await;
    world.add_contact("Anna", "+12055550001").await;
    world.add_contact("Annette", "+12055550002").await;
    let bob = world.add_contact("Bob", "+13055550003").await;
    normalise(&world).await;

    assert_eq!(names(&app, &key, "q=ANN").await, ["Anna", "Annette"]);
    assert_eq!(names(&app, &key, "q=annet").await, ["Annette"]);
    assert_eq!(names(&app, &key, "q=%2B1%20305").await, ["Bob"]);
    assert_eq!(names(&app, &key, &format!("q={bob}@X")).await, ["Bob"]);
    assert!(names(&app, &key, "q=nn").await.is_empty());
    assert_eq!(names(&app, &key, "q=%20").await.len(), 3);
}

#[tokio::test]
async fn a_search_is_paged_in_the_order_of_what_it_found_by() {
    let world = World::start().await;
    let (app, tenant) = App::beside(&world).await;
    let key = app.key(&tenant, Role::Viewer).await;
    for number in [3, 1, 2, 0] {
        let phone = format!("+1205555000{number}");
        world.add_contact(&format!("Ann{number}"), &phone).await;
    }
    // The same name twice stands on two pages all the same.
    world.add_contact("Ann1", "+12055550009").await;
    normalise(&world).await;
    let (mut seen, mut query) = (Vec::new(), "q=ann&limit=2".to_owned());
    loop {
        let page = app
            .get(&key, &format!("/api/contacts?{query}"))
            .await
            .ok(200);
        for contact in page["items"].as_array().unwrap() {
            seen.push(contact["first_name"].as_str().unwrap().to_owned());
        }
        match page["next_cursor"].as_str() {
            Some(cursor) => query = format!("q=ann&limit=2&cursor={cursor}"),
            None => break,
        }
    }
    assert_eq!(seen, ["Ann0", "Ann1", "Ann1", "Ann2", "Ann3"]);
    let cursor = query.rsplit('=').next().unwrap();
    app.get(&key, &format!("/api/contacts?cursor={cursor}"))
        .await
        .problem(400, "invalid-cursor");
}

#[tokio::test]
async fn one_contact_is_shown_with_what_they_agreed_to() {
    let world = World::start().await;
    let (app, tenant) = App::beside(&world).await;
    let key = app.key(&tenant, Role::Viewer).await;
    let id = world.add_contact("Anna", "+12055550001").await;
    let answer = app.get(&key, &format!("/api/contacts/{id}")).await;
    let shown = answer.ok(200);
    assert_eq!(shown["contact"]["phone"], "+12055550001");
    assert_eq!(shown["consents"]["sms"], "attested");
    assert!(!answer.text.contains("null"));
}

#[tokio::test]
async fn somebody_elses_contact_is_not_found() {
    let world = World::start().await;
    let (app, _) = App::beside(&world).await;
    let other = app.tenant("harbor").await;
    let key = app.key(&other, Role::Admin).await;
    let id = world.add_contact("Anna", "+12055550001").await;
    app.get(&key, &format!("/api/contacts/{id}"))
        .await
        .problem(404, "not-found");
    app.get(&key, &format!("/api/messages?contact_id={id}"))
        .await
        .problem(404, "not-found");
    let page = app.get(&key, "/api/contacts").await.ok(200);
    assert_eq!(page["items"].as_array().unwrap().len(), 0);
}
