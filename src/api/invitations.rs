//! Invitations: made by who is in, accepted by who comes in.
//!
//! Whoever holds the token is who was invited. It is sent in bodies alone, since addresses are logged.

use chrono::{DateTime, Utc};
use poem_openapi::param::{Path, Query};
use poem_openapi::payload::Json;
use poem_openapi::{Object, OpenApi};
use secrecy::ExposeSecret;
use serde_json::json;
use uuid::Uuid;

use super::Tag;
use super::body::Body;
use super::change::{Facts, Once, Owner, Turn};
use super::credentials::{hash_new, prove};
use super::front::Front;
use super::page::{Page, PageRequest};
use super::problem::{ApiError, ApiResult, ProblemType};
use super::reply::{Created, Done};
use super::state::ApiState;
use crate::crypto::password::token_hash;
use crate::delivery::invitations::{Guest, InviteError, Invited, invite, invited_entry};
use crate::domain::actor::{Actor, Permission, Role};
use crate::domain::audit::{AuditEntry, Author};
use crate::domain::email::EmailAddress;
use crate::domain::ids::{InvitationId, TenantId, UserId};
use crate::domain::members::{InvitationState, may_grant};
use crate::domain::tenant::TenantStatus;
use crate::store::control::invitations::{self, FoundInvitation, Invitation};
use crate::store::control::{memberships, users};
use crate::store::{ControlTx, StoreError};

/// The operations on invitations.
#[derive(Debug)]
pub struct Invitations {
    state: ApiState,
}

/// Somebody to invite.
#[derive(Debug, Object)]
#[oai(deny_unknown_fields)]
struct Invite {
    /// Their email.
    #[oai(validator(min_length = 1, max_length = 320))]
    email: String,
    /// What they shall be; not above your own role.
    role: Role,
}

/// An invitation as lists show it.
#[derive(Debug, Object)]
struct InvitationView {
    /// Its id.
    id: InvitationId,
    /// Who is invited.
    email: String,
    /// As what.
    role: Role,
    /// Whether it still works.
    state: InvitationState,
    /// When it was made.
    created_at: DateTime<Utc>,
    /// When it ends by itself.
    expires_at: DateTime<Utc>,
}

/// A new invitation with its token, which is never shown again.
#[derive(Debug, Object)]
#[oai(skip_serializing_if_is_none)]
pub(super) struct CreatedInvitation {
    /// The invitation.
    invitation: InvitationView,
    /// What opens it, once. Hand it to whom it is for.
    token: String,
    /// The page that takes it; absent while the installation has no public address.
    link: Option<String>,
}

/// What an invitation is opened with.
#[derive(Debug, Object)]
#[oai(deny_unknown_fields)]
struct Token {
    /// The token of the link.
    #[oai(validator(min_length = 1, max_length = 100))]
    token: String,
}

/// What the invited person sees.
#[derive(Debug, Object)]
struct OpenInvitation {
    /// What people call the tenant.
    tenant_name: String,
    /// Who is invited.
    email: String,
    /// As what.
    role: Role,
    /// When it ends by itself.
    expires_at: DateTime<Utc>,
    /// Whether this email has an account here: then its password is asked for, and else a new one is chosen.
    has_account: bool,
}

/// The invited person's answer.
#[derive(Debug, Object)]
#[oai(deny_unknown_fields, skip_serializing_if_is_none)]
struct Acceptance {
    /// The token of the link.
    #[oai(validator(min_length = 1, max_length = 100))]
    token: String,
    /// The password of the account; of a new one, at least 12 characters.
    #[oai(validator(min_length = 1, max_length = 1024))]
    password: String,
    /// The name of a new account; the email when absent.
    #[oai(validator(min_length = 1, max_length = 200))]
    name: Option<String>,
}

/// What one has become.
#[derive(Debug, Object)]
struct Accepted {
    /// The tenant.
    tenant_id: TenantId,
    /// Its word in addresses.
    tenant_slug: String,
    /// The email to sign in with.
    email: String,
    /// What one is in the tenant.
    role: Role,
}

#[OpenApi(tag = "Tag::Members")]
impl Invitations {
    /// Invite somebody.
    ///
    /// The answer holds the token, once: nothing is sent by itself. It works once, for 7 days.
    #[oai(
        path = "/invitations",
        method = "post",
        operation_id = "create_invitation"
    )]
    async fn create_invitation(
        &self,
        actor: Actor,
        once: Once,
        body: Body<Invite>,
    ) -> ApiResult<Created<CreatedInvitation>> {
        actor.require(Permission::ManageMembers)?;
        may_grant(actor.role, body.0.role)?;
        let email = read_email("email", &body.0.email)?;
        let mut change = match once.in_control(&self.state, &actor).await? {
            Turn::First(change) => change,
            Turn::Repeat(answer) => return Ok(answer),
        };
        let asked = Guest {
            tenant_id: actor.tenant_id,
            email: &email,
            role: body.0.role,
            invited_by: actor.user_id(),
        };
        let invited = invite(change.tx(), &asked, self.state.clock()).await?;
        let entry = invited_entry(&invited.invitation);
        let answer = CreatedInvitation::new(invited, &self.state.front);
        change.commit(entry, Created(answer)).await
    }

    /// List invitations.
    ///
    /// The newest first; those that ended are listed too.
    #[oai(
        path = "/invitations",
        method = "get",
        operation_id = "list_invitations"
    )]
    async fn list_invitations(
        &self,
        actor: Actor,
        /// Rows of the page, 50 when absent.
        #[oai(validator(minimum(value = "1"), maximum(value = "200")))]
        limit: Query<Option<i64>>,
        /// `next_cursor` of the page before.
        cursor: Query<Option<String>>,
    ) -> ApiResult<Json<Page<InvitationView>>> {
        actor.require(Permission::ManageMembers)?;
        let page = PageRequest::<InvitationId>::new("invitations", limit.0, cursor.0.as_deref())?;
        let mut tx = self.state.db.control(actor.tenant_id).begin().await?;
        let limit = page.rows_to_load();
        let rows = invitations::list_invitations(&mut tx, actor.tenant_id, None, page.after, limit)
            .await?;
        Ok(Json(page.page(rows, |invitation| invitation.id)))
    }

    /// Revoke an invitation.
    ///
    /// Its token opens nothing from the answer on. Revoking it again changes nothing.
    #[oai(
        path = "/invitations/:invitation_id",
        method = "delete",
        operation_id = "revoke_invitation"
    )]
    async fn revoke_invitation(
        &self,
        actor: Actor,
        facts: Facts,
        /// The invitation.
        invitation_id: Path<InvitationId>,
    ) -> ApiResult<Done> {
        actor.require(Permission::ManageMembers)?;
        let mut change = facts.in_control(&self.state, &actor).await?;
        let id = invitation_id.0;
        let invitation = invitations::mark_revoked(change.tx(), actor.tenant_id, id).await?;
        if invitation.state == InvitationState::Accepted {
            return Err(ended(InvitationState::Accepted));
        }
        change
            .finish(AuditEntry::new("revoke_invitation", "invitation", &id))
            .await?;
        Ok(Done)
    }

    /// Open an invitation.
    ///
    /// Shows whoever has the token what it is for. Changes nothing; the token is in the body because addresses are logged.
    #[oai(
        path = "/invitations/open",
        method = "post",
        operation_id = "open_invitation"
    )]
    async fn open_invitation(&self, body: Body<Token>) -> ApiResult<Json<OpenInvitation>> {
        let mut tx = self.state.db.control_system().begin().await?;
        let found = load_open(&mut tx, &body.0.token).await?;
        let account = users::find_account(&mut tx, &found.invitation.email).await?;
        Ok(Json(OpenInvitation {
            tenant_name: found.tenant_name,
            email: found.invitation.email,
            role: found.invitation.role,
            expires_at: found.invitation.expires_at,
            has_account: account.is_some_and(|account| account.has_password),
        }))
    }

    /// Accept an invitation.
    ///
    /// Whoever has an account gives its password, anybody else chooses one. Sign in afterwards.
    #[oai(
        path = "/invitations/accept",
        method = "post",
        operation_id = "accept_invitation"
    )]
    async fn accept_invitation(
        &self,
        facts: Facts,
        body: Body<Acceptance>,
    ) -> ApiResult<Json<Accepted>> {
        let answer = &body.0;
        let mut tx = self.state.db.control_system().begin().await?;
        let found = load_open(&mut tx, &answer.token).await?;
        let account = users::find_account(&mut tx, &found.invitation.email).await?;
        // Given back before a hash is computed.
        drop(tx);
        let coming = self.prove_or_make(&facts, &found, account, answer).await?;

        let owner = Owner {
            tenant: Some(found.tenant_id),
            author: Author::User(coming.user_id),
        };
        let mut change = facts.in_all_control(&self.state, owner).await?;
        join(change.tx(), &found, &coming).await?;
        let (id, role) = (found.invitation.id, found.invitation.role);
        let entry = AuditEntry::new("accept_invitation", "invitation", &id)
            .after(json!({ "user_id": coming.user_id, "role": role }));
        let accepted = Accepted {
            tenant_id: found.tenant_id,
            tenant_slug: found.tenant_slug,
            email: found.invitation.email,
            role,
        };
        change.finish(entry).await?;
        Ok(Json(accepted))
    }
}

/// Who accepts.
#[derive(Debug)]
struct Coming {
    user_id: UserId,
    /// What is written of an account that is new, or has no password yet.
    new: Option<NewAccount>,
}

#[derive(Debug)]
struct NewAccount {
    is_known: bool,
    name: String,
    password_hash: String,
}

impl Invitations {
    /// On the state of this process.
    pub fn new(state: ApiState) -> Self {
        Self { state }
    }

    async fn prove_or_make(
        &self,
        facts: &Facts,
        found: &FoundInvitation,
        account: Option<users::Account>,
        answer: &Acceptance,
    ) -> ApiResult<Coming> {
        let email = &found.invitation.email;
        if account.is_some_and(|account| account.has_password) {
            let proven = prove(&self.state, facts.ip, email, &answer.password).await?;
            return Ok(Coming {
                user_id: proven.user_id,
                new: None,
            });
        }
        let name = answer.name.as_deref().map(str::trim);
        Ok(Coming {
            user_id: account.map_or_else(|| UserId(Uuid::now_v7()), |account| account.id),
            new: Some(NewAccount {
                is_known: account.is_some(),
                name: name
                    .filter(|name| !name.is_empty())
                    .unwrap_or(email)
                    .to_owned(),
                password_hash: hash_new(&self.state, "password", &answer.password).await?,
            }),
        })
    }
}

/// The invitation first: of two who accept at once, the second one finds it used.
async fn join(tx: &mut ControlTx, found: &FoundInvitation, coming: &Coming) -> ApiResult<()> {
    let invitation = &found.invitation;
    match invitations::mark_accepted(tx, found.tenant_id, invitation.id).await {
        Err(StoreError::Moved { .. }) => return Err(ended(InvitationState::Accepted)),
        marked => marked?,
    }
    match &coming.new {
        Some(new) if new.is_known => {
            users::save_password(tx, coming.user_id, &new.password_hash).await?;
        }
        Some(new) => {
            let user = users::NewUser {
                id: coming.user_id,
                email: &invitation.email,
                name: &new.name,
                password_hash: &new.password_hash,
            };
            users::insert_user(tx, &user).await?;
        }
        None => {}
    }
    memberships::insert_membership(tx, found.tenant_id, coming.user_id, invitation.role)
        .await
        .map_err(|error| match error.constraint() {
            Some("memberships_pkey") => already_member(),
            _ => error.into(),
        })
}

async fn load_open(tx: &mut ControlTx, token: &str) -> ApiResult<FoundInvitation> {
    let found = invitations::find_by_token(tx, &token_hash(token)).await?;
    let found = found.ok_or_else(|| {
        ApiError::new(
            ProblemType::NotFound,
            "There is no invitation with this token. Check that the link is whole, or ask for a new one.",
        )
    })?;
    if found.invitation.state != InvitationState::Open {
        return Err(ended(found.invitation.state));
    }
    if found.tenant_status != TenantStatus::Active {
        return Err(ApiError::new(
            ProblemType::TenantInactive,
            format!(
                "The tenant is {}. Ask who invited you.",
                found.tenant_status
            ),
        ));
    }
    Ok(found)
}

fn ended(state: InvitationState) -> ApiError {
    let detail = match state {
        InvitationState::Accepted => {
            "This invitation was used. Sign in with its email, or ask for a new one."
        }
        InvitationState::Revoked => "This invitation was taken back. Ask for a new one.",
        InvitationState::Expired | InvitationState::Open => {
            "This invitation has run out. Ask for a new one."
        }
    };
    ApiError::new(ProblemType::InvitationEnded, detail)
}

fn already_member() -> ApiError {
    ApiError::new(
        ProblemType::AlreadyMember,
        "Somebody with this email is a member already. Change their role instead.",
    )
}

/// The address in a field of the body.
pub(super) fn read_email(field: &str, text: &str) -> ApiResult<EmailAddress> {
    EmailAddress::read(text)
        .map_err(|refusal| ApiError::invalid_field(field, &format!("is no address: {refusal}")))
}

impl CreatedInvitation {
    /// With its token, and the link where there is a public address.
    pub(super) fn new(invited: Invited, front: &Front) -> Self {
        let token = invited.token.expose_secret();
        Self {
            invitation: invited.invitation.into(),
            link: front.invitation_link(token),
            token: token.to_owned(),
        }
    }
}

impl From<InviteError> for ApiError {
    fn from(error: InviteError) -> Self {
        match error {
            InviteError::AlreadyMember => already_member(),
            InviteError::AlreadyInvited => Self::new(
                ProblemType::AlreadyInvited,
                "This email has an open invitation. Revoke that one first, if its link was lost.",
            ),
            InviteError::Store(error) => error.into(),
        }
    }
}

impl From<Invitation> for InvitationView {
    fn from(invitation: Invitation) -> Self {
        Self {
            id: invitation.id,
            email: invitation.email,
            role: invitation.role,
            state: invitation.state,
            created_at: invitation.created_at,
            expires_at: invitation.expires_at,
        }
    }
}
