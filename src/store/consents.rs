//! The ledger of consent, and what it comes to per contact and channel.

use chrono::{DateTime, Utc};
use sqlx::query;
use uuid::Uuid;

use super::{StoreResult, TenantTx};
use crate::domain::channel::Channel;
use crate::domain::ids::{ContactId, TenantId};

/// Consent that a tenant attests for one contact and channel.
#[derive(Debug, Clone)]
pub struct Attested<'a> {
    /// Who agreed.
    pub contact_id: ContactId,
    /// To be written to how.
    pub channel: Channel,
    /// MAC of the address on that channel.
    pub dest_mac: &'a [u8],
}

/// What all attestations of one batch have in common.
#[derive(Debug, Clone)]
pub struct AttestedHow<'a> {
    /// Where people agreed.
    pub source: &'a str,
    /// To what.
    pub wording: &'a str,
    /// What stands behind it, such as the import.
    pub evidence: &'a serde_json::Value,
    /// Who attests.
    pub actor: Option<&'a str>,
    /// When people agreed.
    pub occurred_at: DateTime<Utc>,
}

/// Enters consent where nothing is known yet. What the person said himself is never overruled, a revocation least of
/// all, and a repeated attestation adds nothing.
pub async fn insert_attested(
    tx: &mut TenantTx,
    tenant_id: TenantId,
    attested: &[Attested<'_>],
    how: &AttestedHow<'_>,
) -> StoreResult<()> {
    let mut sorted: Vec<&Attested<'_>> = attested.iter().collect();
    // One order for every writer of many rows, so that two of them never deadlock.
    sorted.sort_unstable_by_key(|it| (it.contact_id, it.channel));
    let ids: Vec<Uuid> = sorted.iter().map(|_| Uuid::now_v7()).collect();
    let contact_ids: Vec<Uuid> = sorted.iter().map(|it| it.contact_id.0).collect();
    let channels: Vec<&str> = sorted.iter().map(|it| it.channel.as_str()).collect();
    let macs: Vec<&[u8]> = sorted.iter().map(|it| it.dest_mac).collect();
    query!(
        r#"
        WITH clock AS MATERIALIZED (SELECT app_now() AS at),
        input AS MATERIALIZED (
            SELECT * FROM unnest($2::uuid[], $3::uuid[], $4::text[], $5::bytea[])
                AS u (id, contact_id, channel, dest_mac)
        ),
        taken AS (
            INSERT INTO contact_consents (tenant_id, contact_id, channel, state, consent_id, at)
            SELECT $1, input.contact_id, input.channel, 'attested', input.id, clock.at
            FROM clock, input
            ON CONFLICT (tenant_id, contact_id, channel) DO NOTHING
            RETURNING consent_id
        )
        INSERT INTO consents (tenant_id, id, contact_id, channel, dest_mac, action, source, wording, evidence,
                              actor, occurred_at, recorded_at)
        SELECT $1, input.id, input.contact_id, input.channel, input.dest_mac, 'attested', $6, $7, $8, $9, $10,
               clock.at
        FROM clock, input
        JOIN taken ON taken.consent_id = input.id
        "#,
        tenant_id.0,
        &ids,
        &contact_ids,
        &channels as _,
        &macs as _,
        how.source,
        how.wording,
        how.evidence,
        how.actor,
        how.occurred_at,
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}

/// What one person agreed to.
#[derive(Debug, Clone)]
pub struct Granted<'a> {
    /// Who.
    pub contact_id: ContactId,
    /// To be written to how, with the MAC of the address on that channel.
    pub channels: &'a [(Channel, Vec<u8>)],
    /// Where they agreed.
    pub source: &'a str,
    /// To what.
    pub wording: &'a str,
    /// Who says so.
    pub actor: Option<&'a str>,
    /// When they agreed.
    pub occurred_at: DateTime<Utc>,
}

/// Enters what one person agreed to. A revocation that is younger stays.
pub async fn insert_granted(
    tx: &mut TenantTx,
    tenant_id: TenantId,
    granted: &Granted<'_>,
) -> StoreResult<()> {
    let ids: Vec<Uuid> = granted.channels.iter().map(|_| Uuid::now_v7()).collect();
    let channels: Vec<&str> = granted.channels.iter().map(|(c, _)| c.as_str()).collect();
    let macs: Vec<&[u8]> = granted.channels.iter().map(|(_, m)| m.as_slice()).collect();
    query!(
        r#"
        WITH clock AS MATERIALIZED (SELECT app_now() AS at),
        input AS MATERIALIZED (
            SELECT * FROM unnest($3::uuid[], $4::text[], $5::bytea[]) AS u (id, channel, dest_mac)
        ),
        taken AS (
            INSERT INTO contact_consents AS k (tenant_id, contact_id, channel, state, consent_id, at)
            SELECT $1, $2, input.channel, 'granted', input.id, clock.at
            FROM clock, input
            ORDER BY input.channel
            ON CONFLICT (tenant_id, contact_id, channel) DO UPDATE
            SET state = excluded.state, consent_id = excluded.consent_id, at = excluded.at
            WHERE k.state <> 'revoked' OR $9 > k.at
        )
        INSERT INTO consents (tenant_id, id, contact_id, channel, dest_mac, action, source, wording, actor, occurred_at,
                              recorded_at)
        SELECT $1, input.id, $2, input.channel, input.dest_mac, 'granted', $6, $7, $8, $9, clock.at
        FROM clock, input
        "#,
        tenant_id.0,
        granted.contact_id.0,
        &ids,
        &channels as _,
        &macs as _,
        granted.source,
        granted.wording,
        granted.actor,
        granted.occurred_at,
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}

/// Forgets what a contact agreed to on these channels, since its address there is another one now. What it revoked stays
/// revoked; the ledger keeps all.
pub async fn delete_granted(
    tx: &mut TenantTx,
    tenant_id: TenantId,
    contact_id: ContactId,
    channels: &[Channel],
) -> StoreResult<()> {
    let channels: Vec<&str> = channels.iter().map(|channel| channel.as_str()).collect();
    query!(
        r#"
        DELETE FROM contact_consents
        WHERE tenant_id = $1 AND contact_id = $2 AND channel = ANY($3::text[]) AND state <> 'revoked'
        "#,
        tenant_id.0,
        contact_id.0,
        &channels as &[&str],
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}
