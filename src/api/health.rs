//! Whether this process lives and can work, and its metrics. Outside the document: machines of the operator ask.

use std::sync::Arc;
use std::time::Duration;

use metrics_exporter_prometheus::PrometheusHandle;
use poem::http::{StatusCode, header};
use poem::{Endpoint, EndpointExt, IntoResponse, Response, Route, endpoint, get};
use serde_json::json;

use super::gate::Gate;
use super::problem::{ApiError, ApiResult};
use crate::store::Db;
use crate::store::control::directory;
use crate::store::timelines::is_quarantined;

/// A database that takes longer to say anything is not ready for requests.
const PATIENCE: Duration = Duration::from_secs(2);

/// `/live`: the process answers. `/ready`: it reaches its databases; whether calls may begin there, it says beside.
pub fn routes(db: Db) -> Route {
    let ready = endpoint::make(move |_| {
        let db = db.clone();
        async move { Ok::<_, poem::Error>(ready(&db).await?) }
    });
    Route::new()
        .at("/live", get(endpoint::make_sync(|_| say("ok"))))
        .at("/ready", get(ready))
}

/// What the admin address serves: health, and the metrics in Prometheus' text format.
pub fn admin(db: Db, metrics: PrometheusHandle) -> impl Endpoint<Output = Response> {
    let metrics = endpoint::make_sync(move |_| {
        Response::builder()
            .header(
                header::CONTENT_TYPE,
                "text/plain; version=0.0.4; charset=utf-8",
            )
            .body(metrics.render())
    });
    Route::new()
        .nest("/health", routes(db))
        .at("/metrics", get(metrics))
        .with(Gate {
            routes: Arc::default(),
            front: Arc::default(),
        })
}

async fn ready(db: &Db) -> ApiResult<Response> {
    match tokio::time::timeout(PATIENCE, ask(db)).await {
        Ok(answer) => answer.map(say),
        Err(elapsed) => Err(ApiError::unavailable(5).with_source(elapsed)),
    }
}

/// In quarantine a process is of use and stays: it knows what it called, and people want to look.
async fn ask(db: &Db) -> ApiResult<&'static str> {
    directory::ping(&mut db.control_system().begin().await?).await?;
    // System: the server is everybody's.
    let is_quarantined = is_quarantined(&mut db.system().begin().await?).await?;
    Ok(if is_quarantined { "quarantined" } else { "ok" })
}

fn say(status: &'static str) -> Response {
    poem::web::Json(json!({ "status": status }))
        .with_status(StatusCode::OK)
        .into_response()
}
