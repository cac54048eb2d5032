//! A request that fails at any of its writes leaves no row: neither the thing, nor its record, nor a kept answer.

use engageninja::domain::actor::Role;
use reqwest::{Method, RequestBuilder};
use serde_json::json;

use crate::harness::app::{App, answer};
use crate::harness::world::World;

/// Makes the n-th write of a transaction fail, and says what all tables of both schemas hold.
const PLANTED: &str = r"
    CREATE TABLE public.fail_at (write int);
    CREATE FUNCTION public.count_writes() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
    DECLARE v_write int := coalesce(nullif(current_setting('test.writes', true), ''), '0')::int + 1;
    BEGIN
        PERFORM set_config('test.writes', v_write::text, true);
        IF v_write = (SELECT write FROM public.fail_at) THEN
            RAISE EXCEPTION 'write % was made to fail', v_write;
        END IF;
        RETURN coalesce(new, old);
    END $$;
    CREATE FUNCTION public.contents() RETURNS text LANGUAGE plpgsql AS $$
    DECLARE v_table record; v_one text; v_all text := '';
    BEGIN
        FOR v_table IN SELECT c.oid::regclass AS name FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
                       WHERE n.nspname IN ('cell', 'control') AND c.relkind = 'r' ORDER BY 1 LOOP
            EXECUTE format('SELECT md5(coalesce(string_agg(t::text, '','' ORDER BY t::text), '''')) FROM %s t', v_table.name)
                INTO v_one;
            v_all := v_all || v_table.name || ' ' || v_one || E'\n';
        END LOOP;
        RETURN v_all;
    END $$;
    DO $$
    DECLARE v_table record;
    BEGIN
        FOR v_table IN SELECT c.oid::regclass AS name FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
                       WHERE n.nspname IN ('cell', 'control') AND c.relkind IN ('r', 'p') AND NOT c.relispartition LOOP
            EXECUTE format('CREATE TRIGGER count_writes BEFORE INSERT OR UPDATE OR DELETE ON %s
                            FOR EACH ROW EXECUTE FUNCTION public.count_writes()', v_table.name);
        END LOOP;
    END $$";

/// More writes than any of these requests makes.
const WRITES_MAX: i64 = 20;

/// Fails each write in turn until the request comes through; says how many there were.
async fn fail_each_write(world: &World, request: impl Fn() -> RequestBuilder) -> i64 {
    for write in 1..=WRITES_MAX {
        let arm =
            format!("DELETE FROM public.fail_at; INSERT INTO public.fail_at VALUES ({write})");
        world.db.execute(&arm).await;
        let before = world.db.text("SELECT public.contents()").await;
        let answer = answer(request()).await;
        if answer.status.is_success() {
            assert_ne!(world.db.text("SELECT public.contents()").await, before);
            return write - 1;
        }
        answer.problem(500, "internal");
        let after = world.db.text("SELECT public.contents()").await;
        assert_eq!(after, before, "write {write} left something");
    }
    panic!("it never came through");
}

#[tokio::test]
async fn a_request_that_fails_at_any_write_leaves_no_row() {
    let world = World::start().await;
    world.add_contacts(1).await;
    let campaign = world.campaign("Hello {{ first_name }}").await;
    let (app, tenant) = App::beside(&world).await;
    let key = app.key(&tenant, Role::Admin).await;
    let operator = app.operator(&app.tenant("office").await).await;
    // A key's first use is noted; from here on requests write nothing but what they are for.
    app.get(&key, "/api/campaigns").await.ok(200);
    world.db.execute(PLANTED).await;

    let post = |path: String, once: &'static str| {
        let request = app.with_key(&key, Method::POST, &path);
        request.header("Idempotency-Key", once)
    };
    let in_cell = fail_each_write(&world, || {
        let body = json!({"name": "Spring", "channel": "sms", "body": "Hello"});
        post("/api/templates".to_owned(), "one").json(&body)
    });
    // Template, version, the link between them, the record, the answer.
    assert_eq!(in_cell.await, 5);
    let in_control = fail_each_write(&world, || {
        let body = json!({"name": "shop", "role": "sender"});
        post("/api/keys".to_owned(), "two").json(&body)
    });
    // Key, record, answer.
    assert_eq!(in_control.await, 3);
    let owned = fail_each_write(&world, || {
        let body = json!({"name": "Tea House", "slug": "tea", "owner_email": "owner@tea.example"});
        let request = app.with_cookie(&operator, Method::POST, "/api/admin/tenants");
        request.header("Idempotency-Key", "three").json(&body)
    });
    // Cell, directory, invitation, two records, the answer.
    assert_eq!(owned.await, 6);
    let switch = fail_each_write(&world, || {
        let path = format!("/api/campaigns/{campaign}/cancel");
        app.with_key(&key, Method::POST, &path)
    });
    // Campaign, job, record.
    assert_eq!(switch.await, 3);

    for (rows, count) in [
        ("SELECT count(*) FROM templates WHERE name = 'Spring'", 1),
        (
            "SELECT count(*) FROM control.api_keys WHERE name = 'shop'",
            1,
        ),
        (
            "SELECT count(*) FROM jobs WHERE kind = 'cancel-campaign'",
            1,
        ),
        ("SELECT count(*) FROM audit_log", 2),
        ("SELECT count(*) FROM control.platform_audit", 3),
        ("SELECT count(*) FROM control.invitations", 1),
    ] {
        assert_eq!(world.number(rows).await, count, "{rows}");
    }
}
