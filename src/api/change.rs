//! A change: one transaction with the thing changed, the record of who changed it, and the answer for whoever asks the
//! same again. All or nothing of it is committed.
//!
//! Operations that make something take [`Once`], which reads the header `Idempotency-Key`: the first request with a key
//! does the work, each repeat gets the first one's answer. Only what was done is kept: a refusal changed nothing, and the
//! next try is judged anew. Other changes begin with [`Facts`].

use std::net::IpAddr;

use poem::http::{HeaderName, HeaderValue};
use poem::{FromRequest, Request, RequestBody};
use poem_openapi::registry::{MetaParamIn, MetaSchema, MetaSchemaRef};
use poem_openapi::types::{ParseFromJSON, ToJSON};
use poem_openapi::{ApiExtractor, ApiExtractorType, ExtractParamOptions};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::problem::{ApiError, ApiResult, ProblemType};
use super::reply::Reply;
use super::state::ApiState;
use crate::crypto::answers;
use crate::crypto::mac::MacKey;
use crate::domain::actor::{Actor, Operator};
use crate::domain::audit::{AuditEntry, Author};
use crate::domain::ids::TenantId;
use crate::store::audit::Origin;
use crate::store::idempotency::{Claim, Kept};
use crate::store::{ControlTx, StoreResult, TenantTx, Tx, audit, control, idempotency, tx};

/// The header, as requests send it.
pub const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
/// What the document calls it; handlers name the argument `once`.
pub const IDEMPOTENCY_KEY_NAME: &str = "Idempotency-Key";
/// What the document says of it.
pub const IDEMPOTENCY_KEY_DESCRIPTION: &str = "Names this request: a repeat with the same key within 7 days changes nothing and gets the same answer.";
const KEY_CHARS_MAX: usize = 255;
/// When a repeat that came while the first one was at work may come again.
const BUSY_RETRY_SECS: u64 = 1;

/// What the gate knows of a request.
#[derive(Debug, Clone, Copy)]
pub struct Facts {
    /// The request's own id, in its answer and in every record of it.
    pub request_id: Uuid,
    /// Where it came from.
    pub ip: Option<IpAddr>,
    /// SHA-256 of method, address and body; of method and address alone where the operation reads its body itself.
    pub hash: [u8; 32],
}

impl<'a> FromRequest<'a> for Facts {
    async fn from_request(request: &'a Request, _body: &mut RequestBody) -> poem::Result<Self> {
        let facts = request.data::<Self>().copied();
        Ok(facts.ok_or_else(|| ApiError::internal("the request did not pass the gate"))?)
    }
}

impl Facts {
    /// Opens a change of the actor's tenant in the cell.
    pub async fn in_cell(self, state: &ApiState, actor: &Actor) -> ApiResult<Change<tx::Tenant>> {
        Ok(Change {
            tx: state.db.cell(actor.tenant_id).begin().await?,
            owner: Owner::from(actor),
            facts: self,
            kept_under: None,
        })
    }

    /// Opens a change of the actor's tenant in `control`.
    pub async fn in_control(
        self,
        state: &ApiState,
        actor: &Actor,
    ) -> ApiResult<Change<tx::Control>> {
        Ok(Change {
            tx: state.db.control(actor.tenant_id).begin().await?,
            owner: Owner::from(actor),
            facts: self,
            kept_under: None,
        })
    }

    /// Opens a change in `control` that comes before a tenant is known, or is of several.
    pub async fn in_all_control(
        self,
        state: &ApiState,
        owner: Owner,
    ) -> ApiResult<Change<tx::Control>> {
        Ok(Change {
            tx: state.db.control_system().begin().await?,
            owner,
            facts: self,
            kept_under: None,
        })
    }
}

/// Whose change it is, and by whom. In the cell it is always a tenant's.
#[derive(Debug, Clone, Copy)]
pub struct Owner<W = Option<TenantId>> {
    /// Whose.
    pub tenant: W,
    /// By whom.
    pub author: Author,
}

impl<W: From<TenantId>> From<&Actor> for Owner<W> {
    fn from(actor: &Actor) -> Self {
        Self {
            tenant: actor.tenant_id.into(),
            author: actor.into(),
        }
    }
}

impl Owner {
    /// What an operator changes: about one tenant, or about none.
    pub fn operator(operator: &Operator, tenant: Option<TenantId>) -> Self {
        Self {
            tenant,
            author: operator.into(),
        }
    }
}

impl<W: Copy + Into<Option<TenantId>>> Owner<W> {
    /// The name under which answers are kept: a tenant's keys are one set, whoever sends them.
    fn name(&self) -> String {
        match self.tenant.into() {
            Some(id) => format!("tenant:{id}"),
            None => format!(
                "{}:{}",
                self.author.kind(),
                self.author.id().unwrap_or_default()
            ),
        }
    }

    /// Where a kept answer belongs.
    fn place(&self, key: &str) -> String {
        format!("{} {key}", self.name())
    }
}

/// A request that makes something, once however often it is sent.
#[derive(Debug)]
pub struct Once {
    facts: Facts,
    key: Option<String>,
}

impl<'a> ApiExtractor<'a> for Once {
    const TYPES: &'static [ApiExtractorType] = &[ApiExtractorType::Parameter];

    type ParamType = String;
    type ParamRawType = String;

    fn param_in() -> Option<MetaParamIn> {
        Some(MetaParamIn::Header)
    }

    fn param_schema_ref() -> Option<MetaSchemaRef> {
        Some(MetaSchemaRef::Inline(Box::new(MetaSchema {
            min_length: Some(1),
            max_length: Some(KEY_CHARS_MAX),
            ..MetaSchema::new("string")
        })))
    }

    async fn from_request(
        request: &'a Request,
        body: &mut RequestBody,
        _options: ExtractParamOptions<String>,
    ) -> poem::Result<Self> {
        let facts = <Facts as FromRequest>::from_request(request, body).await?;
        let key = match request.headers().get(IDEMPOTENCY_KEY) {
            Some(value) => Some(readable(value)?),
            None => None,
        };
        Ok(Self { facts, key })
    }
}

fn readable(value: &HeaderValue) -> ApiResult<String> {
    let text = value.to_str().unwrap_or_default().trim();
    if (1..=KEY_CHARS_MAX).contains(&text.len()) {
        return Ok(text.to_owned());
    }
    Err(ApiError::new(
        ProblemType::InvalidParameter,
        format!("An Idempotency-Key has 1 to {KEY_CHARS_MAX} characters of ASCII, such as a UUID."),
    )
    .with_field(
        IDEMPOTENCY_KEY_NAME,
        format!("must have 1 to {KEY_CHARS_MAX} characters of ASCII"),
    ))
}

/// Whether the request is the first one with its key.
#[derive(Debug)]
pub enum Turn<K: Home, R> {
    /// It is, and here is its change.
    First(Change<K>),
    /// It was done before, with this answer.
    Repeat(R),
}

impl Once {
    /// The same request with the body that the operation has read by now, whose SHA-256 is `hash`.
    #[must_use]
    pub fn with_body(mut self, hash: [u8; 32]) -> Self {
        let whole = Sha256::new().chain_update(self.facts.hash);
        self.facts.hash = whole.chain_update(hash).finalize().into();
        self
    }

    /// Opens the change of the actor's tenant in the cell, unless it was made before.
    ///
    /// # Errors
    /// 409 while the first request with the key is at work, 422 when it asked for something else.
    pub async fn in_cell<R: Reply>(
        self,
        state: &ApiState,
        actor: &Actor,
    ) -> ApiResult<Turn<tx::Tenant, R>> {
        let change = self.facts.in_cell(state, actor).await?;
        change.claim(self.key, &state.mac_key).await
    }

    /// The same in `control`.
    ///
    /// # Errors
    /// As [`Once::in_cell`].
    pub async fn in_control<R: Reply>(
        self,
        state: &ApiState,
        actor: &Actor,
    ) -> ApiResult<Turn<tx::Control, R>> {
        let change = self.facts.in_control(state, actor).await?;
        change.claim(self.key, &state.mac_key).await
    }

    /// The same for what comes before a tenant is known, or is of several.
    ///
    /// # Errors
    /// As [`Once::in_cell`].
    pub async fn in_all_control<R: Reply>(
        self,
        state: &ApiState,
        owner: Owner,
    ) -> ApiResult<Turn<tx::Control, R>> {
        let change = self.facts.in_all_control(state, owner).await?;
        change.claim(self.key, &state.mac_key).await
    }
}

/// An open change. Dropped, it never was.
#[derive(Debug)]
pub struct Change<K: Home> {
    tx: Tx<K>,
    owner: Owner<K::Whose>,
    facts: Facts,
    kept_under: Option<(String, MacKey)>,
}

impl<K: Home> Change<K> {
    /// The transaction, for what is changed.
    pub fn tx(&mut self) -> &mut Tx<K> {
        &mut self.tx
    }

    async fn claim<R: Reply>(
        mut self,
        key: Option<String>,
        mac_key: &MacKey,
    ) -> ApiResult<Turn<K, R>> {
        let Some(key) = key else {
            return Ok(Turn::First(self));
        };
        match K::claim(&mut self.tx, &self.owner, &key).await? {
            Claim::Free => {
                self.kept_under = Some((key, mac_key.clone()));
                Ok(Turn::First(self))
            }
            Claim::Busy => Err(ApiError::new(
                ProblemType::IdempotencyKeyBusy,
                "The first request with this Idempotency-Key is still at work. Send it again in a second to get its answer.",
            )
            .with_retry_after(BUSY_RETRY_SECS)),
            Claim::Kept(kept) => {
                let place = self.owner.place(&key);
                // Whoever asks once more is not to find the key taken.
                self.tx.rollback().await?;
                repeat(kept, &self.facts.hash, &place, mac_key).map(Turn::Repeat)
            }
        }
    }

    /// Records one more thing that the change does.
    pub async fn record(&mut self, entry: &AuditEntry) -> ApiResult<()> {
        let origin = Origin {
            author: self.owner.author,
            request_id: Some(self.facts.request_id),
            ip: self.facts.ip,
        };
        Ok(K::record(&mut self.tx, &self.owner, &origin, entry).await?)
    }

    /// Records it, keeps the answer for a repeat, and makes all of it durable.
    pub async fn commit<R: Reply>(mut self, entry: AuditEntry, reply: R) -> ApiResult<R> {
        self.record(&entry).await?;
        if let Some((key, mac_key)) = self.kept_under.take() {
            let body = reply.body().to_json().unwrap_or_default();
            let answer = if K::IS_SEALED {
                json!(answers::seal(
                    &mac_key,
                    &self.owner.place(&key),
                    &body.to_string()
                ))
            } else {
                body
            };
            let kept = (R::STATUS, &answer);
            K::keep(&mut self.tx, &self.owner, &key, &self.facts.hash, kept).await?;
        }
        self.tx.commit().await?;
        Ok(reply)
    }

    /// Records it and makes it durable, where there is no answer to keep.
    pub async fn finish(mut self, entry: AuditEntry) -> ApiResult<()> {
        self.record(&entry).await?;
        Ok(self.tx.commit().await?)
    }
}

fn repeat<R: Reply>(kept: Kept, hash: &[u8; 32], place: &str, mac_key: &MacKey) -> ApiResult<R> {
    if kept.request_hash != hash {
        return Err(ApiError::new(
            ProblemType::IdempotencyKeyReused,
            "This Idempotency-Key was used for another request: another address or another body. Choose a new key for \
             each thing to make.",
        ));
    }
    let answer = match kept.answer {
        Value::String(sealed) => {
            let text = answers::open(mac_key, place, &sealed).map_err(ApiError::internal)?;
            serde_json::from_str(&text).map_err(ApiError::internal)?
        }
        plain => plain,
    };
    let body = R::Body::parse_from_json(Some(answer))
        .map_err(|error| ApiError::internal(error.into_message()))?;
    Ok(R::of(body))
}

/// The schema a change lies in: where its record and its answer are kept.
pub trait Home: Sized {
    /// Whose changes these are.
    type Whose: Copy + std::fmt::Debug + Send + Sync + Into<Option<TenantId>>;

    /// Whether answers are sealed.
    const IS_SEALED: bool;

    /// Takes the key, and says what it stands for.
    fn claim(
        tx: &mut Tx<Self>,
        owner: &Owner<Self::Whose>,
        key: &str,
    ) -> impl Future<Output = StoreResult<Claim>> + Send;

    /// Keeps the answer.
    fn keep(
        tx: &mut Tx<Self>,
        owner: &Owner<Self::Whose>,
        key: &str,
        hash: &[u8],
        answer: (u16, &Value),
    ) -> impl Future<Output = StoreResult<()>> + Send;

    /// Records a change.
    fn record(
        tx: &mut Tx<Self>,
        owner: &Owner<Self::Whose>,
        origin: &Origin,
        entry: &AuditEntry,
    ) -> impl Future<Output = StoreResult<()>> + Send;
}

impl Home for tx::Tenant {
    type Whose = TenantId;

    const IS_SEALED: bool = false;

    async fn claim(tx: &mut TenantTx, owner: &Owner<TenantId>, key: &str) -> StoreResult<Claim> {
        idempotency::claim_key(tx, owner.tenant, key).await
    }

    async fn keep(
        tx: &mut TenantTx,
        owner: &Owner<TenantId>,
        key: &str,
        hash: &[u8],
        answer: (u16, &Value),
    ) -> StoreResult<()> {
        idempotency::keep_answer(tx, owner.tenant, key, hash, answer).await
    }

    async fn record(
        tx: &mut TenantTx,
        owner: &Owner<TenantId>,
        origin: &Origin,
        entry: &AuditEntry,
    ) -> StoreResult<()> {
        audit::insert_entry(tx, owner.tenant, origin, entry).await
    }
}

impl Home for tx::Control {
    type Whose = Option<TenantId>;

    const IS_SEALED: bool = true;

    async fn claim(tx: &mut ControlTx, owner: &Owner, key: &str) -> StoreResult<Claim> {
        control::idempotency::claim_key(tx, &owner.name(), key).await
    }

    async fn keep(
        tx: &mut ControlTx,
        owner: &Owner,
        key: &str,
        hash: &[u8],
        answer: (u16, &Value),
    ) -> StoreResult<()> {
        control::idempotency::keep_answer(tx, &owner.name(), key, hash, answer).await
    }

    async fn record(
        tx: &mut ControlTx,
        owner: &Owner,
        origin: &Origin,
        entry: &AuditEntry,
    ) -> StoreResult<()> {
        control::audit::insert_entry(tx, owner.tenant, origin, entry).await
    }
}
