//! The addresses: making, showing and listing messages, the account, and the fake's own.

use std::net::SocketAddr;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use chrono::TimeDelta;
use futures_util::stream;
use poem::http::{StatusCode, header};
use poem::web::Json;
use poem::{Body, Endpoint, EndpointExt, IntoResponse, Request, Response, Route, endpoint, get};
use serde_json::json;
use uuid::Uuid;

use super::ledger::{Accepted, Requested};
use super::weather::{Act, Reply, Weather, between};
use super::{Shared, wire};

/// Messages of one page, when nothing is said.
const PAGE_SIZE: usize = 50;
const PAGE_SIZE_MAX: usize = 1000;

/// Everything the fake serves.
pub(super) fn routes(shared: &Arc<Shared>) -> impl Endpoint<Output = Response> + use<> {
    let on = |run: for<'a> fn(&'a Arc<Shared>, Request) -> BoxAnswer<'a>| {
        let shared = shared.clone();
        endpoint::make(move |request| {
            let shared = shared.clone();
            async move { Ok::<_, poem::Error>(run(&shared, request).await) }
        })
    };
    Route::new()
        .at(
            "/2010-04-01/Accounts/:account/Messages.json",
            get(on(|shared, request| {
                Box::pin(async move { list(shared, &request) })
            }))
            .post(on(|shared, request| Box::pin(create(shared, request)))),
        )
        .at(
            "/2010-04-01/Accounts/:account/Messages/:file",
            get(on(|shared, request| {
                Box::pin(async move { show(shared, &request) })
            })),
        )
        .at(
            "/2010-04-01/Accounts/:file",
            get(on(|shared, request| {
                Box::pin(async move { account(shared, &request) })
            })),
        )
        .at(
            "/fake/weather",
            poem::put(on(|shared, request| Box::pin(set_weather(shared, request)))),
        )
        .at(
            "/fake/ledger",
            get(on(|shared, _| {
                Box::pin(async move { Json(shared.ledger.accepted()).into_response() })
            })),
        )
        .map_to_response()
}

type BoxAnswer<'a> = futures_util::future::BoxFuture<'a, Response>;

/// Which account a request is for, when it may speak for it.
fn authorize(shared: &Shared, request: &Request, account: &str) -> Result<(), Box<Response>> {
    let given = request
        .header(header::AUTHORIZATION)
        .and_then(|value| value.strip_prefix("Basic "))
        .and_then(|value| STANDARD.decode(value).ok());
    let known = shared.account(account);
    let is_known = known.as_ref().is_some_and(|(token, _)| {
        given.as_deref() == Some(format!("{account}:{token}").as_bytes())
    });
    if !is_known {
        return Err(Box::new(refusal((401, 20003))));
    }
    // 20005: the account is not active.
    if known.is_some_and(|(_, is_suspended)| is_suspended) {
        return Err(Box::new(refusal((403, 20005))));
    }
    Ok(())
}

fn refusal(refused: wire::Refusal) -> Response {
    let status = StatusCode::from_u16(refused.0).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    Json(wire::error(refused))
        .with_status(status)
        .into_response()
}

async fn create(shared: &Arc<Shared>, mut request: Request) -> Response {
    let account = request
        .raw_path_param("account")
        .unwrap_or_default()
        .to_owned();
    let peer = request.remote_addr().as_socket_addr().copied();
    let is_form = request
        .content_type()
        .is_some_and(|kind| kind.starts_with("application/x-www-form-urlencoded"));
    let body = request.take_body().into_bytes().await.unwrap_or_default();
    let form: Vec<(String, String)> = url::form_urlencoded::parse(&body).into_owned().collect();
    shared.ledger.request(Requested {
        account_sid: account.clone(),
        at: shared.clock.now(),
        form: form.clone(),
    });
    if let Err(refused) = authorize(shared, &request, &account) {
        return *refused;
    }
    let (act, weather) = shared.next_act(&account);
    shared.pause(weather.before_ms).await;
    let made = match act {
        Act { takes: true, .. } if is_form => wire::read(&form),
        Act { takes: true, .. } => Err((415, 20001)),
        Act { takes: false, .. } => return reply(shared, act.reply, None, peer).await,
    };
    let asked = match made {
        Ok(asked) => asked,
        Err(refused) => return refusal(refused),
    };
    let status = asked.first_status();
    let accepted = Accepted {
        sid: format!("SM{}", Uuid::new_v4().simple()),
        account_sid: account,
        from: asked.from,
        messaging_service_sid: asked.messaging_service_sid,
        to: asked.to,
        body: asked.body,
        status_callback: asked.status_callback,
        accepted_at: shared.clock.now(),
        status: status.into(),
        error_code: None,
        direction: "outbound-api",
        form,
    };
    shared.ledger.accept(accepted.clone());
    shared.follow(accepted.clone(), weather.callbacks);
    shared.pause(weather.after_ms).await;
    reply(shared, act.reply, Some(&accepted), peer).await
}

async fn reply(
    shared: &Arc<Shared>,
    reply: Reply,
    accepted: Option<&Accepted>,
    peer: Option<SocketAddr>,
) -> Response {
    let json = |body: String| {
        Response::builder()
            .content_type("application/json")
            .body(body)
    };
    match reply {
        Reply::Created => {
            let message = accepted.map(wire::message).unwrap_or_default();
            Json(message)
                .with_status(StatusCode::CREATED)
                .into_response()
        }
        Reply::Error { status, code } => refusal((status, code)),
        Reply::Throttled { retry_after } => {
            let mut answer = refusal((429, 20429));
            if let Some(value) = retry_after.and_then(|text| text.parse().ok()) {
                answer.headers_mut().insert(header::RETRY_AFTER, value);
            }
            answer
        }
        Reply::Reset => {
            if let Some(peer) = peer {
                shared.connections.cut(peer);
            }
            StatusCode::CREATED.into_response()
        }
        Reply::Stall => {
            shared.stop.cancelled().await;
            StatusCode::SERVICE_UNAVAILABLE.into_response()
        }
        Reply::NoSid => json(r#"{"status":"queued"}"#.into())
            .with_status(StatusCode::CREATED)
            .into_response(),
        Reply::Html { status } => Response::builder()
            .status(StatusCode::from_u16(status).unwrap_or(StatusCode::OK))
            .content_type("text/html")
            .body("<html><body>We are sorry</body></html>"),
        Reply::Redirect => Response::builder()
            .status(StatusCode::TEMPORARY_REDIRECT)
            .header(header::LOCATION, "Messages.json")
            .finish(),
        Reply::Endless => {
            let spaces = stream::repeat_with(|| Ok::<_, std::io::Error>(vec![b' '; 4096]));
            Response::builder()
                .status(StatusCode::CREATED)
                .content_type("application/json")
                .body(Body::from_bytes_stream(spaces))
        }
    }
}

fn list(shared: &Shared, request: &Request) -> Response {
    let account = request.raw_path_param("account").unwrap_or_default();
    if let Err(refused) = authorize(shared, request, account) {
        return *refused;
    }
    let query = request.uri().query().unwrap_or_default();
    let pairs: Vec<(String, String)> = url::form_urlencoded::parse(query.as_bytes())
        .into_owned()
        .collect();
    let find = |name: &str| {
        let found = pairs.iter().find(|(key, _)| key == name);
        found.map(|(_, value)| value.as_str())
    };
    if let Some(status) = shared.refused_list() {
        return refusal((status, 20500));
    }
    let number = |name: &str| find(name).and_then(|text| text.parse::<usize>().ok());
    let size = number("PageSize")
        .unwrap_or(PAGE_SIZE)
        .clamp(1, PAGE_SIZE_MAX);
    let page = number("Page").unwrap_or(0);
    let lag = TimeDelta::milliseconds(shared.weather(account).listing_lag_ms as i64);
    let all = shared
        .ledger
        .list(account, find("To"), shared.clock.now() - lag);
    let shown: Vec<_> = all
        .iter()
        .skip(page * size)
        .take(size)
        .map(wire::message)
        .collect();
    let base = format!("/2010-04-01/Accounts/{account}/Messages.json");
    let next = (all.len() > (page + 1) * size).then(|| {
        let mut link = url::form_urlencoded::Serializer::new(String::new());
        if let Some(to) = find("To") {
            link.append_pair("To", to);
        }
        link.append_pair("PageSize", &size.to_string());
        link.append_pair("Page", &(page + 1).to_string());
        link.append_pair("PageToken", &format!("PA{}", Uuid::new_v4().simple()));
        format!("{base}?{}", link.finish())
    });
    let body = json!({
        "messages": shown,
        "first_page_uri": format!("{base}?PageSize={size}&Page=0"),
        "next_page_uri": next,
        "previous_page_uri": null,
        "page": page,
        "page_size": size,
        "start": page * size,
        "end": page * size + shown.len().saturating_sub(1),
        "uri": base,
    });
    Json(body).into_response()
}

fn show(shared: &Shared, request: &Request) -> Response {
    let account = request.raw_path_param("account").unwrap_or_default();
    if let Err(refused) = authorize(shared, request, account) {
        return *refused;
    }
    let sid = request
        .raw_path_param("file")
        .and_then(|file| file.strip_suffix(".json"));
    let found = sid.and_then(|sid| shared.ledger.find(sid));
    match found.filter(|one| one.account_sid == account) {
        Some(one) => Json(wire::message(&one)).into_response(),
        None => refusal((404, 20404)),
    }
}

fn account(shared: &Shared, request: &Request) -> Response {
    let file = request.raw_path_param("file").unwrap_or_default();
    let Some(sid) = file.strip_suffix(".json") else {
        return refusal((404, 20404));
    };
    match authorize(shared, request, sid) {
        // A suspended account may still be looked at.
        Err(refused) if refused.status() == StatusCode::UNAUTHORIZED => *refused,
        _ => {
            let is_suspended = shared.account(sid).is_some_and(|(_, suspended)| suspended);
            Json(json!({
                "sid": sid,
                "friendly_name": "Fake",
                "status": if is_suspended { "suspended" } else { "active" },
                "type": "Full",
            }))
            .into_response()
        }
    }
}

async fn set_weather(shared: &Arc<Shared>, mut request: Request) -> Response {
    let body = request.take_body().into_bytes().await.unwrap_or_default();
    match serde_json::from_slice::<Weather>(&body) {
        Ok(weather) => {
            shared.set_weather(weather);
            StatusCode::NO_CONTENT.into_response()
        }
        Err(error) => error
            .to_string()
            .with_status(StatusCode::BAD_REQUEST)
            .into_response(),
    }
}

impl Shared {
    async fn pause(&self, range: (u64, u64)) {
        if range.1 > 0 {
            let pause = between(range, &mut *self.random());
            tokio::time::sleep(pause).await;
        }
    }
}
