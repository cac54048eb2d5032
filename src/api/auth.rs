//! Who makes a request: a session's cookie or an API key, turned into an [`Actor`].
//!
//! A key in the header `Authorization` wins over a cookie. With a cookie, a method that changes something must come
//! from our own pages: browsers send the cookie along from everywhere.

use poem::http::{Method, header};
use poem::{Request, RequestBody};
use poem_openapi::registry::{MetaSecurityScheme, Registry};
use poem_openapi::{ApiExtractor, ApiExtractorType, ExtractParamOptions};

use super::problem::{ApiError, ApiResult, ProblemType};
use super::state::ApiState;
use crate::crypto::password::{KEY_PREFIX, token_hash};
use crate::domain::actor::{Actor, Operator, Who};
use crate::domain::ids::UserId;
use crate::domain::tenant::TenantStatus;
use crate::store::control::api_keys;
use crate::store::control::sessions::{self, Session};

/// The cookie of a session.
pub const COOKIE: &str = "engageninja_session";

const SESSION_SCHEME: &str = "session";
const KEY_SCHEME: &str = "api_key";

impl<'a> ApiExtractor<'a> for Actor {
    const TYPES: &'static [ApiExtractorType] = &[ApiExtractorType::SecurityScheme];

    type ParamType = ();
    type ParamRawType = ();

    fn register(registry: &mut Registry) {
        register_session(registry);
        registry.create_security_scheme(
            KEY_SCHEME,
            MetaSecurityScheme {
                ty: "http",
                description: Some(
                    "A key of the tenant, made at POST /keys: `Authorization: Bearer en_…`.",
                ),
                name: None,
                key_in: None,
                scheme: Some("bearer"),
                bearer_format: None,
                flows: None,
                openid_connect_url: None,
            },
        );
    }

    fn security_schemes() -> Vec<&'static str> {
        vec![SESSION_SCHEME, KEY_SCHEME]
    }

    async fn from_request(
        request: &'a Request,
        _body: &mut RequestBody,
        _options: ExtractParamOptions<()>,
    ) -> poem::Result<Self> {
        Ok(authenticate(request).await?)
    }
}

/// Somebody who is signed in, whichever tenant is open, or none: for what concerns themselves.
#[derive(Debug)]
pub struct Person {
    /// Their session.
    pub session: Session,
    /// What is stored of its token.
    pub token_hash: [u8; 32],
}

impl Person {
    /// Who it is.
    pub fn user_id(&self) -> UserId {
        self.session.user_id
    }
}

impl<'a> ApiExtractor<'a> for Person {
    const TYPES: &'static [ApiExtractorType] = &[ApiExtractorType::SecurityScheme];

    type ParamType = ();
    type ParamRawType = ();

    fn register(registry: &mut Registry) {
        register_session(registry);
    }

    fn security_schemes() -> Vec<&'static str> {
        vec![SESSION_SCHEME]
    }

    async fn from_request(
        request: &'a Request,
        _body: &mut RequestBody,
        _options: ExtractParamOptions<()>,
    ) -> poem::Result<Self> {
        Ok(authenticate_person(request).await?)
    }
}

/// Somebody who is signed in, or a tenant's program: for saying who one is.
#[derive(Debug)]
pub enum Caller {
    /// By a session's cookie.
    Person(Person),
    /// By a key.
    Program(Actor),
}

impl<'a> ApiExtractor<'a> for Caller {
    const TYPES: &'static [ApiExtractorType] = &[ApiExtractorType::SecurityScheme];

    type ParamType = ();
    type ParamRawType = ();

    fn register(registry: &mut Registry) {
        <Actor as ApiExtractor>::register(registry);
    }

    fn security_schemes() -> Vec<&'static str> {
        <Actor as ApiExtractor>::security_schemes()
    }

    async fn from_request(
        request: &'a Request,
        _body: &mut RequestBody,
        _options: ExtractParamOptions<()>,
    ) -> poem::Result<Self> {
        if request.headers().contains_key(header::AUTHORIZATION) {
            return Ok(Self::Program(authenticate(request).await?));
        }
        Ok(Self::Person(authenticate_person(request).await?))
    }
}

impl<'a> ApiExtractor<'a> for Operator {
    const TYPES: &'static [ApiExtractorType] = &[ApiExtractorType::SecurityScheme];

    type ParamType = ();
    type ParamRawType = ();

    fn register(registry: &mut Registry) {
        register_session(registry);
    }

    fn security_schemes() -> Vec<&'static str> {
        vec![SESSION_SCHEME]
    }

    async fn from_request(
        request: &'a Request,
        _body: &mut RequestBody,
        _options: ExtractParamOptions<()>,
    ) -> poem::Result<Self> {
        Ok(authenticate_operator(request).await?)
    }
}

async fn authenticate_operator(request: &Request) -> ApiResult<Operator> {
    let person = authenticate_person(request).await?;
    if !person.session.is_platform_admin {
        return Err(ApiError::new(
            ProblemType::Forbidden,
            "This is for those who run the platform. 'engageninja user add --platform-admin' makes somebody one.",
        ));
    }
    Ok(Operator {
        user_id: person.user_id(),
    })
}

fn register_session(registry: &mut Registry) {
    registry.create_security_scheme(
        SESSION_SCHEME,
        MetaSecurityScheme {
            ty: "apiKey",
            description: Some("The cookie that POST /sessions sets, for browsers."),
            name: Some(COOKIE),
            key_in: Some("cookie"),
            scheme: None,
            bearer_format: None,
            flows: None,
            openid_connect_url: None,
        },
    );
}

async fn authenticate(request: &Request) -> ApiResult<Actor> {
    let state = state(request)?;
    if let Some(value) = request.headers().get(header::AUTHORIZATION) {
        let key = value
            .to_str()
            .ok()
            .and_then(|text| text.split_once(' '))
            .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
            .map(|(_, key)| key.trim())
            .filter(|key| key.starts_with(KEY_PREFIX))
            .ok_or_else(ApiError::unauthenticated)?;
        return authenticate_key(state, key).await;
    }
    let person = authenticate_person(request).await?;
    let user_id = person.user_id();
    let tenant = person.session.tenant.ok_or_else(|| {
        ApiError::new(
            ProblemType::NotAMember,
            "No tenant is open in your session. Open one at PUT /api/sessions/current/tenant; GET /api/me/tenants lists \
             yours.",
        )
    })?;
    require_active(tenant.status)?;
    Ok(Actor {
        tenant_id: tenant.id,
        who: Who::User(user_id),
        role: tenant.role,
    })
}

async fn authenticate_key(state: &ApiState, key: &str) -> ApiResult<Actor> {
    let mut tx = state.db.control_system().begin().await?;
    let key = api_keys::find_live_key(&mut tx, &token_hash(key))
        .await?
        .ok_or_else(ApiError::unauthenticated)?;
    if key.is_use_stale {
        api_keys::mark_used(&mut tx, key.tenant_id, key.id).await?;
    }
    tx.commit().await?;
    require_active(key.tenant_status)?;
    Ok(Actor {
        tenant_id: key.tenant_id,
        who: Who::ApiKey(key.id),
        role: key.role,
    })
}

async fn authenticate_person(request: &Request) -> ApiResult<Person> {
    let state = state(request)?;
    let token_hash = cookie_hash(request).ok_or_else(ApiError::unauthenticated)?;
    if !is_safe(request.method()) {
        state.front.require_own_page(request)?;
    }
    let mut tx = state.db.control_system().begin().await?;
    let session = sessions::find_session(&mut tx, &token_hash)
        .await?
        .ok_or_else(ApiError::unauthenticated)?;
    if session.is_use_stale {
        sessions::mark_seen(&mut tx, &token_hash).await?;
    }
    tx.commit().await?;
    Ok(Person {
        session,
        token_hash,
    })
}

fn state(request: &Request) -> ApiResult<&ApiState> {
    request
        .data::<ApiState>()
        .ok_or_else(|| ApiError::internal("the state is not attached to the route"))
}

fn cookie_hash(request: &Request) -> Option<[u8; 32]> {
    // Read by hand: whatever else a browser has for this host must not get in the way.
    request
        .headers()
        .get_all(header::COOKIE)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(';'))
        .filter_map(|pair| pair.trim().split_once('='))
        .find(|(name, _)| *name == COOKIE)
        .map(|(_, token)| token_hash(token))
}

fn is_safe(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS)
}

fn require_active(status: TenantStatus) -> ApiResult<()> {
    if status == TenantStatus::Active {
        return Ok(());
    }
    Err(ApiError::new(
        ProblemType::TenantInactive,
        format!("This tenant is {status}. Write to the operator of this installation."),
    ))
}
