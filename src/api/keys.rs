//! Keys of a tenant's programs: made, listed, revoked.

use chrono::{DateTime, Utc};
use poem_openapi::param::{Path, Query};
use poem_openapi::payload::Json;
use poem_openapi::{Enum, Object, OpenApi};
use uuid::Uuid;

use super::Tag;
use super::body::{Body, named};
use super::change::{Facts, Once, Turn};
use super::page::{Page, PageRequest};
use super::problem::{ApiError, ApiResult, ProblemType};
use super::reply::{AsJson, Created, Done};
use super::state::ApiState;
use crate::crypto::password::NewSecret;
use crate::domain::actor::{Actor, Permission, Role};
use crate::domain::audit::AuditEntry;
use crate::domain::ids::ApiKeyId;
use crate::store::control::api_keys::{self, ApiKey, NewApiKey};

/// The operations on keys.
#[derive(Debug)]
pub struct Keys {
    state: ApiState,
}

/// What a key may be; it never owns a tenant.
#[derive(Debug, Clone, Copy, Enum)]
#[oai(rename_all = "snake_case")]
enum KeyRole {
    /// Looks.
    Viewer,
    /// Works with contacts, templates and campaigns.
    Sender,
    /// Sets up, and manages keys.
    Admin,
}

/// A key to make.
#[derive(Debug, Object)]
#[oai(deny_unknown_fields, skip_serializing_if_is_none)]
struct NewKey {
    /// What people call it.
    #[oai(validator(min_length = 1, max_length = 100))]
    name: String,
    /// What it may do.
    role: KeyRole,
    /// When it ends by itself; never when absent.
    expires_at: Option<DateTime<Utc>>,
}

/// A key as lists show it.
#[derive(Debug, Object)]
#[oai(skip_serializing_if_is_none)]
struct KeyView {
    /// Its id.
    id: ApiKeyId,
    /// What people call it.
    name: String,
    /// The first characters, by which people recognise it.
    prefix: String,
    /// What it may do.
    role: Role,
    /// When it was made.
    created_at: DateTime<Utc>,
    /// When it was last used, to the minute.
    last_used_at: Option<DateTime<Utc>>,
    /// When it ends by itself.
    expires_at: Option<DateTime<Utc>>,
    /// When somebody ended it.
    revoked_at: Option<DateTime<Utc>>,
}

/// A new key with its secret, which is never shown again.
#[derive(Debug, Object)]
struct CreatedKey {
    /// The key.
    key: KeyView,
    /// What to send as `Authorization: Bearer …`. We keep only a fingerprint and cannot show it again.
    secret: String,
}

#[OpenApi(tag = "Tag::Keys")]
impl Keys {
    /// Make a key.
    ///
    /// The answer holds the secret, once.
    #[oai(path = "/keys", method = "post", operation_id = "create_key")]
    async fn create_key(
        &self,
        actor: Actor,
        once: Once,
        body: Body<NewKey>,
    ) -> ApiResult<Created<CreatedKey>> {
        actor.require(Permission::ManageKeys)?;
        self.require_future(body.0.expires_at)?;
        let secret = NewSecret::api_key();

        let mut change = match once.in_control(&self.state, &actor).await? {
            Turn::First(change) => change,
            Turn::Repeat(answer) => return Ok(answer),
        };
        let key = NewApiKey {
            tenant_id: actor.tenant_id,
            id: ApiKeyId(Uuid::now_v7()),
            name: named(&body.0.name)?,
            prefix: secret.prefix(),
            key_hash: &secret.hash(),
            role: body.0.role.into(),
            created_by: actor.user_id(),
            expires_at: body.0.expires_at,
        };
        let key = KeyView::from(api_keys::insert_key(change.tx(), &key).await?);
        let entry = AuditEntry::new("create_key", "key", &key.id).after(key.as_json());
        let answer = CreatedKey {
            key,
            secret: secret.text,
        };
        change.commit(entry, Created(answer)).await
    }

    /// List keys.
    ///
    /// The newest first; keys that ended are listed too.
    #[oai(path = "/keys", method = "get", operation_id = "list_keys")]
    async fn list_keys(
        &self,
        actor: Actor,
        /// Rows of the page, 50 when absent.
        #[oai(validator(minimum(value = "1"), maximum(value = "200")))]
        limit: Query<Option<i64>>,
        /// `next_cursor` of the page before.
        cursor: Query<Option<String>>,
    ) -> ApiResult<Json<Page<KeyView>>> {
        actor.require(Permission::ManageKeys)?;
        let page = PageRequest::<ApiKeyId>::new("keys", limit.0, cursor.0.as_deref())?;
        let mut tx = self.state.db.control(actor.tenant_id).begin().await?;
        let rows =
            api_keys::list_keys(&mut tx, actor.tenant_id, page.after, page.rows_to_load()).await?;
        Ok(Json(page.page(rows, |key| key.id)))
    }

    /// Revoke a key.
    ///
    /// It counts no more from the answer on. Revoking it again changes nothing.
    #[oai(path = "/keys/:key_id", method = "delete", operation_id = "revoke_key")]
    async fn revoke_key(
        &self,
        actor: Actor,
        facts: Facts,
        /// The key.
        key_id: Path<ApiKeyId>,
    ) -> ApiResult<Done> {
        actor.require(Permission::ManageKeys)?;
        let mut change = facts.in_control(&self.state, &actor).await?;
        api_keys::mark_revoked(change.tx(), actor.tenant_id, key_id.0).await?;
        change
            .finish(AuditEntry::new("revoke_key", "key", &key_id.0))
            .await?;
        Ok(Done)
    }
}

impl Keys {
    /// On the state of this process.
    pub fn new(state: ApiState) -> Self {
        Self { state }
    }

    fn require_future(&self, expires_at: Option<DateTime<Utc>>) -> ApiResult<()> {
        if expires_at.is_none_or(|at| at > self.state.clock().now()) {
            return Ok(());
        }
        Err(ApiError::new(
            ProblemType::Unprocessable,
            "The key would have ended already. Choose a later 'expires_at', or leave it out.",
        )
        .with_field("expires_at", "must be in the future"))
    }
}

impl From<KeyRole> for Role {
    fn from(role: KeyRole) -> Self {
        match role {
            KeyRole::Viewer => Self::Viewer,
            KeyRole::Sender => Self::Sender,
            KeyRole::Admin => Self::Admin,
        }
    }
}

impl From<ApiKey> for KeyView {
    fn from(key: ApiKey) -> Self {
        Self {
            id: key.id,
            name: key.name,
            prefix: key.prefix,
            role: key.role,
            created_at: key.created_at,
            last_used_at: key.last_used_at,
            expires_at: key.expires_at,
            revoked_at: key.revoked_at,
        }
    }
}
