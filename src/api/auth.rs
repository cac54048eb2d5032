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

/// Makes a type one that a handler can ask for: who makes the request, by which of the document's schemes.
macro_rules! by_schemes {
    ($who:ty, $schemes:expr, $authenticate:ident) => {
        impl<'a> ApiExtractor<'a> for $who {
            const TYPES: &'static [ApiExtractorType] = &[ApiExtractorType::SecurityScheme];

            type ParamType = ();
            type ParamRawType = ();

            fn register(registry: &mut Registry) {
                for scheme in $schemes {
                    registry.create_security_scheme(scheme, described(scheme));
                }
            }

            fn security_schemes() -> Vec<&'static str> {
                $schemes.to_vec()
            }

            async fn from_request(
                request: &'a Request,
                _body: &mut RequestBody,
                _options: ExtractParamOptions<()>,
            ) -> poem::Result<Self> {
                Ok($authenticate(request).await?)
            }
        }
    };
}

by_schemes!(Actor, [SESSION_SCHEME, KEY_SCHEME], authenticate);
by_schemes!(Caller, [SESSION_SCHEME, KEY_SCHEME], authenticate_caller);
by_schemes!(Person, [SESSION_SCHEME], authenticate_person);
by_schemes!(Operator, [SESSION_SCHEME], authenticate_operator);

/// What the document says of a scheme.
fn described(scheme: &str) -> MetaSecurityScheme {
    let nothing = MetaSecurityScheme {
        ty: "apiKey",
        description: None,
        name: None,
        key_in: None,
        scheme: None,
        bearer_format: None,
        flows: None,
        openid_connect_url: None,
    };
    if scheme == KEY_SCHEME {
        return MetaSecurityScheme {
            ty: "http",
            description: Some(
                "A key of the tenant, made at POST /keys: `Authorization: Bearer en_…`.",
            ),
            scheme: Some("bearer"),
            ..nothing
        };
    }
    MetaSecurityScheme {
        description: Some("The cookie that POST /sessions sets, for browsers."),
        name: Some(COOKIE),
        key_in: Some("cookie"),
        ..nothing
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

/// Somebody who is signed in, or a tenant's program: for saying who one is.
#[derive(Debug)]
pub enum Caller {
    /// By a session's cookie.
    Person(Person),
    /// By a key.
    Program(Actor),
}

async fn authenticate_caller(request: &Request) -> ApiResult<Caller> {
    if request.headers().contains_key(header::AUTHORIZATION) {
        return Ok(Caller::Program(authenticate(request).await?));
    }
    Ok(Caller::Person(authenticate_person(request).await?))
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
