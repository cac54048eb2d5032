//! Signing in and out, and who one is.

use chrono::TimeDelta;
use poem::Request;
use poem::http::header;
use poem::web::cookie::{Cookie, SameSite};
use poem_openapi::payload::Json;
use poem_openapi::{ApiResponse, Object, OpenApi};
use secrecy::SecretString;

use super::Tag;
use super::auth::{COOKIE, SessionToken, own_origin_scheme, require_own_origin};
use super::body::Body;
use super::change::Facts;
use super::problem::{ApiError, ApiResult, ProblemType};
use super::state::ApiState;
use crate::crypto::password::{random_bytes, random_token, token_hash};
use crate::domain::actor::{Actor, Role, Who, normalized_login};
use crate::domain::ids::{ApiKeyId, TenantId, UserId};
use crate::store::ControlTx;
use crate::store::control::memberships::Membership;
use crate::store::control::sessions::{NewSession, delete_session, insert_session};
use crate::store::control::{directory, memberships, users};

/// How long a session lasts.
const SESSION_DAYS: i64 = 14;

/// The operations on sessions.
#[derive(Debug)]
pub struct Sessions {
    state: ApiState,
}

/// Email and password.
#[derive(Debug, Object)]
#[oai(deny_unknown_fields, skip_serializing_if_is_none)]
struct SignIn {
    /// The email of your account.
    #[oai(validator(min_length = 1, max_length = 320))]
    email: String,
    /// Its password.
    #[oai(validator(min_length = 1, max_length = 1024))]
    password: String,
    /// Which of your tenants to open, by its word in addresses; the one joined first when absent.
    #[oai(validator(max_length = 63))]
    tenant: Option<String>,
}

/// Who makes requests, in which tenant, as what.
#[derive(Debug, Object)]
#[oai(skip_serializing_if_is_none)]
pub struct SessionView {
    /// The person; absent for an API key.
    user: Option<UserView>,
    /// The key; absent for a person.
    api_key_id: Option<ApiKeyId>,
    /// The tenant that is open.
    tenant: TenantView,
    /// What one is there.
    role: Role,
}

/// A person.
#[derive(Debug, Object)]
struct UserView {
    /// Their id.
    id: UserId,
    /// Their email.
    email: String,
    /// Their name.
    name: String,
}

/// A tenant.
#[derive(Debug, Object)]
struct TenantView {
    /// Its id.
    id: TenantId,
    /// What people call it.
    name: String,
    /// Its word in addresses.
    slug: String,
    /// Whether its messages are simulated.
    is_demo: bool,
}

#[derive(ApiResponse)]
enum SignedIn {
    /// Signed in; the cookie comes with the answer.
    #[oai(status = 201)]
    Created(Json<SessionView>, #[oai(header = "Set-Cookie")] String),
}

#[derive(ApiResponse)]
enum SignedOut {
    /// Signed out; the cookie is taken back.
    #[oai(status = 204)]
    Done(#[oai(header = "Set-Cookie")] String),
}

#[OpenApi(tag = "Tag::Sessions")]
impl Sessions {
    /// Sign in.
    ///
    /// Sets a cookie that browsers send along. Programs use an API key instead. Five tries a minute per account and
    /// address.
    #[oai(path = "/sessions", method = "post", operation_id = "create_session")]
    async fn create_session(&self, request: &Request, body: Body<SignIn>) -> ApiResult<SignedIn> {
        if request.headers().contains_key(header::ORIGIN) {
            require_own_origin(request)?;
        }
        let user_id = self.check_password(request, &body.0).await?;
        let token = random_token();

        let mut tx = self.state.db.control_system().begin().await?;
        let members = memberships::list_of_user(&mut tx, user_id).await?;
        let member = choose_tenant(&members, body.0.tenant.as_deref())?;
        let tenant_id = member.tenant_id;
        let session = NewSession {
            token_hash: &token_hash(&token),
            user_id,
            tenant_id,
            csrf_secret: &random_bytes(),
            ip: remote_ip(request),
            user_agent: user_agent(request),
            expires_at: self.state.clock().now() + TimeDelta::days(SESSION_DAYS),
        };
        insert_session(&mut tx, &session).await?;
        users::mark_login(&mut tx, user_id).await?;
        let view = view(&mut tx, tenant_id, Who::User(user_id), member.role).await?;

        tx.commit().await?;
        let is_secure = own_origin_scheme(request) == Some("https");
        Ok(SignedIn::Created(Json(view), cookie(&token, is_secure)))
    }

    /// Show the current session.
    ///
    /// Answers who one is, in which tenant and as what; for an API key too.
    #[oai(
        path = "/sessions/current",
        method = "get",
        operation_id = "get_current_session"
    )]
    async fn get_current_session(&self, actor: Actor) -> ApiResult<Json<SessionView>> {
        let mut tx = self.state.db.control_system().begin().await?;
        let view = view(&mut tx, actor.tenant_id, actor.who, actor.role).await?;
        Ok(Json(view))
    }

    /// Sign out.
    ///
    /// Ends the session at once; its cookie counts no more, wherever it was copied to.
    #[oai(
        path = "/sessions/current",
        method = "delete",
        operation_id = "delete_current_session"
    )]
    async fn delete_current_session(&self, token: SessionToken) -> ApiResult<SignedOut> {
        let mut tx = self.state.db.control_system().begin().await?;
        delete_session(&mut tx, &token.0).await?;
        tx.commit().await?;
        Ok(SignedOut::Done(format!(
            "{COOKIE}=; Path=/; HttpOnly; SameSite=Lax; Max-Age=0"
        )))
    }
}

impl Sessions {
    /// On the state of this process.
    pub fn new(state: ApiState) -> Self {
        Self { state }
    }

    /// Who it is, when the password is right. An unknown account and a wrong password get the same answer, after the
    /// same time.
    async fn check_password(&self, request: &Request, given: &SignIn) -> ApiResult<UserId> {
        let login = normalized_login(&given.email);
        let ip = remote_ip(request);
        let now = self.state.clock().now();
        self.state.throttle.count_try(&login, ip, now)?;

        let mut tx = self.state.db.control_system().begin().await?;
        let known = users::find_credentials(&mut tx, &login).await?;
        // Given back before the hash is computed, which takes longer than everything else here.
        drop(tx);
        let (id, stored) =
            known.map_or((None, None), |known| (Some(known.id), known.password_hash));
        let password = SecretString::from(given.password.as_str());
        match (self.state.verify_password(stored, password).await?, id) {
            (true, Some(id)) => {
                self.state.throttle.forget(&login, ip);
                Ok(id)
            }
            _ => Err(ApiError::new(
                ProblemType::WrongCredentials,
                "Check both and try again. An operator can set a new password with 'engageninja user reset-password'.",
            )),
        }
    }
}

/// The tenant to open; one that does not exist and one that is somebody else's get the same answer.
fn choose_tenant<'a>(members: &'a [Membership], asked: Option<&str>) -> ApiResult<&'a Membership> {
    members
        .iter()
        .find(|member| asked.is_none_or(|slug| slug == member.slug))
        .ok_or_else(|| {
            ApiError::new(
                ProblemType::NotAMember,
                "Leave 'tenant' out to open the tenant you joined first, or ask an admin to make you a member.",
            )
        })
}

async fn view(
    tx: &mut ControlTx,
    tenant_id: TenantId,
    who: Who,
    role: Role,
) -> ApiResult<SessionView> {
    let tenant = directory::load_tenant(tx, tenant_id).await?;
    let (user, api_key_id) = match who {
        Who::User(id) => {
            let user = users::load_user(tx, id).await?;
            let view = UserView {
                id,
                email: user.email,
                name: user.name,
            };
            (Some(view), None)
        }
        Who::ApiKey(id) => (None, Some(id)),
    };
    Ok(SessionView {
        user,
        api_key_id,
        tenant: TenantView {
            id: tenant_id,
            name: tenant.name,
            slug: tenant.slug,
            is_demo: tenant.is_demo,
        },
        role,
    })
}

fn cookie(token: &str, is_secure: bool) -> String {
    let mut cookie = Cookie::new_with_str(COOKIE, token);
    cookie.set_path("/");
    cookie.set_http_only(true);
    cookie.set_same_site(SameSite::Lax);
    cookie.set_secure(is_secure);
    cookie.set_max_age(std::time::Duration::from_secs(SESSION_DAYS as u64 * 86_400));
    cookie.to_string()
}

fn remote_ip(request: &Request) -> Option<std::net::IpAddr> {
    request.data::<Facts>().and_then(|facts| facts.ip)
}

fn user_agent(request: &Request) -> Option<&str> {
    let text = request.headers().get(header::USER_AGENT)?.to_str().ok()?;
    Some(&text[..text.len().min(512)])
}
