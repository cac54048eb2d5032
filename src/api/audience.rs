//! Whom a campaign is written to, as bodies name it.

use poem_openapi::{Enum, Object};

use super::campaigns::unknown_part;
use super::problem::{ApiError, ApiResult, FieldError, ProblemType};
use crate::domain::campaign::Audience;
use crate::domain::ids::{ImportId, ListId, TenantId};
use crate::store::{TenantTx, imports, lists};

/// Whom a campaign is written to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Enum)]
#[oai(rename_all = "snake_case")]
pub enum AudienceKind {
    /// Every contact of the tenant.
    Everybody,
    /// Every contact that one import named.
    Import,
    /// Every contact on one of some lists.
    Lists,
}

/// Whom a campaign is written to.
#[derive(Debug, Clone, Object)]
#[oai(deny_unknown_fields, skip_serializing_if_is_none)]
pub struct AudienceView {
    /// Everybody, an import's people, or those on some lists.
    kind: AudienceKind,
    /// The import; with `kind` `import` alone.
    import_id: Option<ImportId>,
    /// The lists; with `kind` `lists` alone. Who stands on several gets one message.
    #[oai(validator(min_items = 1, max_items = 50))]
    list_ids: Option<Vec<ListId>>,
}

impl AudienceView {
    /// The audience it describes.
    ///
    /// # Errors
    /// 422 when it lacks what its kind needs, or has what another kind needs.
    pub fn parse(&self) -> ApiResult<Audience> {
        let Self {
            kind,
            import_id,
            list_ids,
        } = self;
        let (field, message) = match (kind, import_id, list_ids) {
            (AudienceKind::Everybody, None, None) => return Ok(Audience::Everybody),
            (AudienceKind::Import, Some(id), None) => {
                return Ok(Audience::Import { import_id: *id });
            }
            (AudienceKind::Lists, None, Some(ids)) => return Ok(Audience::lists(ids.clone())),
            (AudienceKind::Everybody | AudienceKind::Lists, Some(_), _) => {
                ("import_id", "is for the kind 'import' alone")
            }
            (AudienceKind::Everybody | AudienceKind::Import, _, Some(_)) => {
                ("list_ids", "is for the kind 'lists' alone")
            }
            (AudienceKind::Import, None, None) => ("import_id", "is missing"),
            (AudienceKind::Lists, None, None) => ("list_ids", "is missing"),
        };
        let field = format!("audience.{field}");
        Err(ApiError::invalid_field(&field, message))
    }
}

/// What an audience names must be there and be the tenant's.
///
/// # Errors
/// 422 with the field that names something else.
pub async fn require_audience(
    tx: &mut TenantTx,
    tenant_id: TenantId,
    audience: &Audience,
) -> ApiResult<()> {
    if let Audience::Import { import_id } = audience {
        imports::load_import(tx, tenant_id, *import_id)
            .await
            .map_err(|error| unknown_part(error, "audience.import_id"))?;
    }
    let asked = audience.list_ids();
    let found = lists::hold_lists(tx, tenant_id, asked).await?;
    let strangers: Vec<_> = asked.iter().filter(|id| !found.contains(id)).collect();
    if strangers.is_empty() {
        return Ok(());
    }
    let errors = strangers.into_iter().map(|id| FieldError {
        field: "audience.list_ids".to_owned(),
        message: format!("names no list of your tenant: {id}"),
    });
    Err(ApiError::new(
        ProblemType::Unprocessable,
        "There is no list with an id in 'audience.list_ids'; errors names it. Nothing was changed.",
    )
    .with_errors(errors.collect()))
}

impl From<Audience> for AudienceView {
    fn from(audience: Audience) -> Self {
        let (kind, import_id, list_ids) = match audience {
            Audience::Everybody => (AudienceKind::Everybody, None, None),
            Audience::Import { import_id } => (AudienceKind::Import, Some(import_id), None),
            Audience::Lists { list_ids } => (AudienceKind::Lists, None, Some(list_ids)),
        };
        Self {
            kind,
            import_id,
            list_ids,
        }
    }
}
