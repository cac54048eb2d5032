//! The HTTP door: everything under `/api`, its document, the health routes and the plain page.
//!
//! Each resource is one file. What they share: [`auth`] says who asks, [`body`] reads JSON, [`page`] pages lists,
//! [`problem`] is the one place where an error becomes HTTP, and the [`gate`] is what every request passes.

pub mod admin_demo_tenants;
pub mod admin_tenants;
pub mod audience;
pub mod audit;
pub mod auth;
pub mod body;
pub mod campaigns;
pub mod change;
pub mod connection;
pub mod contacts;
pub mod credentials;
pub mod csv;
pub mod document;
pub mod events;
pub mod front;
pub mod gate;
pub mod health;
pub mod home;
pub mod imports;
pub mod invitations;
pub mod keys;
pub mod lists;
pub mod me;
pub mod members;
pub mod messages;
pub mod ops;
pub mod page;
pub mod parked;
pub mod passwords;
pub mod preview;
pub mod problem;
pub mod progress;
pub mod reply;
pub mod routes;
pub mod search;
pub mod senders;
pub mod sessions;
pub mod state;
pub mod stats;
pub mod suppressions;
pub mod templates;
pub mod tenant;
pub mod webhooks;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use poem::web::Html;
use poem::{Endpoint, EndpointExt, Response, Route, Server, endpoint, get};
use poem_openapi::Tags;
use tokio_util::sync::CancellationToken;

use self::connection::PatientAcceptor;
use self::events::pump::SLOW_READER;
use self::gate::Gate;
use self::routes::Routes;
use self::state::ApiState;

pub use self::document::openapi_document;

/// How long requests that are under way may take once the process shall end.
const DRAIN: Duration = Duration::from_secs(10);
/// A connection on which nothing moves is ended; streams send a sign of life every 15 seconds.
const IDLE: Duration = Duration::from_mins(1);

/// Groups of operations in the document.
#[derive(Debug, Tags)]
pub enum Tag {
    /// Signing in and out.
    Sessions,
    /// Oneself.
    Me,
    /// People of the tenant, and those who are invited.
    Members,
    /// The tenant: its settings, and what was changed in it.
    Tenant,
    /// Keys of the tenant's programs.
    Keys,
    /// People the tenant writes to.
    Contacts,
    /// Named sets of contacts.
    Lists,
    /// Files of contacts.
    Imports,
    /// What is said.
    Templates,
    /// What is said to whom, and how far it is.
    Campaigns,
    /// Where messages come from.
    Senders,
    /// Single messages.
    Messages,
    /// The numbers of the home page, and the stream of whatever moves.
    Stats,
    /// Finding anything.
    Search,
    /// Addresses never to write to.
    Suppressions,
    /// What providers tell.
    Webhooks,
    /// Running the platform.
    Ops,
    /// The platform's tenants.
    Admin,
}

/// Who gets in, and as what.
pub type People = (
    sessions::Sessions,
    me::Me,
    members::Members,
    invitations::Invitations,
    keys::Keys,
    tenant::Tenants,
    audit::Audit,
    admin_tenants::AdminTenants,
    admin_tenants::plan::TenantPlans,
    admin_demo_tenants::AdminDemoTenants,
    audit::AdminAudit,
);

fn people(state: &ApiState) -> People {
    (
        sessions::Sessions::new(state.clone()),
        me::Me::new(state.clone()),
        members::Members::new(state.clone()),
        invitations::Invitations::new(state.clone()),
        keys::Keys::new(state.clone()),
        tenant::Tenants::new(state.clone()),
        audit::Audit::new(state.clone()),
        admin_tenants::AdminTenants::new(state.clone()),
        admin_tenants::plan::TenantPlans::new(state.clone()),
        admin_demo_tenants::AdminDemoTenants::new(state.clone()),
        audit::AdminAudit::new(state.clone()),
    )
}

/// What is said, and to whom in campaigns.
pub type CampaignResources = (
    templates::Templates,
    templates::TemplateVersions,
    campaigns::Campaigns,
    campaigns::switches::CampaignSwitches,
    campaigns::pace::CampaignPaces,
    campaigns::retries::CampaignRetries,
);

fn campaign_resources(state: &ApiState) -> CampaignResources {
    (
        templates::Templates::new(state.clone()),
        templates::TemplateVersions::new(state.clone()),
        campaigns::Campaigns::new(state.clone()),
        campaigns::switches::CampaignSwitches::new(state.clone()),
        campaigns::pace::CampaignPaces::new(state.clone()),
        campaigns::retries::CampaignRetries::new(state.clone()),
    )
}

/// What a tenant has at a glance: numbers, anything by a word, and the stream of both.
pub type Overview = (stats::Stats, search::Search, events::Events);

fn overview(state: &ApiState) -> Overview {
    (
        stats::Stats::new(state.clone()),
        search::Search::new(state.clone()),
        events::Events::new(state.clone()),
    )
}

/// Every resource of the document; a tuple holds at most 16.
pub type Resources = (
    People,
    contacts::Contacts,
    lists::Lists,
    CampaignResources,
    messages::Messages,
    suppressions::Suppressions,
    Overview,
    imports::Imports,
    webhooks::Webhooks,
    ops::OpsResources,
    parked::Parked,
    senders::Senders,
);

fn resources(state: &ApiState) -> Resources {
    (
        people(state),
        contacts::Contacts::new(state.clone()),
        lists::Lists::new(state.clone()),
        campaign_resources(state),
        messages::Messages::new(state.clone()),
        suppressions::Suppressions::new(state.clone()),
        overview(state),
        imports::Imports::new(state.clone()),
        webhooks::Webhooks::new(state.clone()),
        ops::resources(state),
        parked::Parked::new(state.clone()),
        senders::Senders::new(state.clone()),
    )
}

/// Everything on the public port.
pub fn app(state: &ApiState) -> impl Endpoint<Output = Response> + use<> {
    let document = openapi_document();
    let routes = Routes::from_document(&serde_json::from_str(document).unwrap_or_default());
    Route::new()
        .at("/", get(home::page()))
        .at(
            "/api/docs",
            get(endpoint::make_sync(|_| Html(document::swagger_page()))),
        )
        .at(
            "/api/openapi.json",
            get(endpoint::make_sync(move |_| {
                Response::builder()
                    .content_type("application/json")
                    .body(document)
            })),
        )
        .nest("/api", document::service(resources(state)))
        .nest("/health", health::routes(state.db.clone()))
        .data(state.clone())
        .with(Gate {
            routes: Arc::new(routes),
            front: state.front.clone(),
        })
}

/// Serves the public port until `stop`, then lets requests under way end.
pub async fn serve(
    state: ApiState,
    listener: tokio::net::TcpListener,
    stop: CancellationToken,
) -> io::Result<()> {
    let endpoint = app(&state);
    let listener = PatientAcceptor::new(listener, state.slow_reader)?;
    let streams = state.streams.clone();
    tokio::spawn(async move {
        stop.cancelled().await;
        // Streams end first: nobody could wait for them to end by themselves.
        streams.cancel();
    });
    run_on(listener, endpoint, state.streams).await
}

/// Serves any endpoint until `stop`: the admin address too.
pub async fn run(
    endpoint: impl Endpoint<Output = Response> + 'static,
    listener: tokio::net::TcpListener,
    stop: CancellationToken,
) -> io::Result<()> {
    run_on(PatientAcceptor::new(listener, SLOW_READER)?, endpoint, stop).await
}

async fn run_on(
    listener: PatientAcceptor,
    endpoint: impl Endpoint<Output = Response> + 'static,
    stop: CancellationToken,
) -> io::Result<()> {
    Server::new_with_acceptor(listener)
        .idle_timeout(IDLE)
        .run_with_graceful_shutdown(endpoint, stop.cancelled_owned(), Some(DRAIN))
        .await
}
