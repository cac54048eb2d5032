//! A file on its way in. It is received whole before anything is decided, since a request's body may take its time and a
//! transaction may not; then one change makes it an import, or finds that its key has one already.

use futures_util::{Stream, StreamExt};
use poem::Body;
use sha2::{Digest, Sha256};

use super::views::ImportView;
use crate::api::change::{Change, Once, Turn};
use crate::api::gate::DRAIN_BYTES_MAX;
use crate::api::problem::{ApiError, ApiResult, ProblemType};
use crate::api::reply::{AsJson, Created};
use crate::api::state::ApiState;
use crate::delivery::imports::{Received, Upload};
use crate::domain::actor::Actor;
use crate::domain::audit::AuditEntry;
use crate::store::tx::Tenant;

/// Makes a body an import, or leaves nothing of it.
pub(super) async fn receive(
    state: ApiState,
    actor: Actor,
    once: Once,
    file_name: String,
    body: Body,
) -> ApiResult<Created<ImportView>> {
    let db = state.db.clone();
    let upload = Upload::begin(db, actor.tenant_id, &file_name, actor.user_id()).await?;
    let (received, hash) = take_in(upload, body).await?;
    let made = match once.with_body(hash).in_cell(&state, &actor).await {
        Ok(Turn::First(change)) => make(change, &received).await,
        Ok(Turn::Repeat(answer)) => {
            received.abort().await;
            return Ok(answer);
        }
        Err(error) => Err(error),
    };
    if made.is_err() {
        received.abort().await;
    }
    made
}

/// Stores a whole body, and says its SHA-256.
async fn take_in(mut upload: Upload, body: Body) -> ApiResult<(Received, [u8; 32])> {
    let mut hash = Sha256::new();
    let mut pieces = body.into_bytes_stream();
    while let Some(piece) = pieces.next().await {
        let taken = match piece {
            Ok(piece) => {
                hash.update(&piece);
                upload.write(&piece).await.map_err(ApiError::from)
            }
            Err(error) => Err(ApiError::new(
                ProblemType::MalformedRequest,
                "The upload broke off. Send it again.",
            )
            .with_source(error)),
        };
        if let Err(error) = taken {
            upload.abort().await;
            drain(pieces).await;
            return Err(error);
        }
    }
    Ok((upload.close().await?, hash.finalize().into()))
}

async fn make(mut change: Change<Tenant>, received: &Received) -> ApiResult<Created<ImportView>> {
    let import = received.keep(change.tx()).await?;
    let id = import.id;
    let view = ImportView::from(import);
    let entry = AuditEntry::new("create_import", "import", &id).after(view.as_json());
    change.commit(entry, Created(view)).await
}

/// Reads what is left of a body that is refused.
pub(super) async fn drain(pieces: impl Stream<Item = std::io::Result<impl AsRef<[u8]>>>) {
    let mut pieces = std::pin::pin!(pieces);
    let mut left = DRAIN_BYTES_MAX;
    while let Some(Ok(piece)) = pieces.next().await {
        left = left.saturating_sub(piece.as_ref().len());
        if left == 0 {
            return;
        }
    }
}
