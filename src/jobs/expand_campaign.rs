//! Turns a campaign's audience into messages.
//!
//! The first transaction freezes the audience; then each takes 2,000 people: render, count segments, accept the messages,
//! move the cursor. Running twice is harmless: the cursor's row is taken by one transaction at a time, and a message's id is
//! computed from its place in the audience, so that a repeated chunk adds nothing. Whoever finds the cursor taken comes
//! back: the one who has it may be dying, and then nobody else would go on.

use std::time::Duration;

use super::{Job, JobContext, Outcome, Run, WORK_MAX};
use crate::clock::Clock;
use crate::crypto::mac::MacKey;
use crate::delivery::intake::{Commands, accept_messages};
use crate::domain::campaign::{Campaign, CampaignStatus};
use crate::domain::content::Content;
use crate::domain::counts::{CountDelta, CountWord};
use crate::domain::ids::{ContactId, LaneId};
use crate::domain::message::campaign_message_id;
use crate::domain::orders::ExpandCampaign;
use crate::store::audience::{self, CursorTaken, Member};
use crate::store::campaign_counts::append_deltas;
use crate::store::messages::{BatchHead, NewMessage};
use crate::store::senders::Sender;
use crate::store::{StoreError, StoreResult, TenantTx, campaigns, contacts, senders, templates};

/// People of one transaction.
const CHUNK_MEMBERS: i64 = 2_000;
/// How long to leave it to whoever has the cursor.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

impl Job for ExpandCampaign {
    async fn run(self, context: &JobContext, run: Run) -> Outcome {
        match expand(&self, context, &run).await {
            Ok(Progress::Done) => Outcome::Done,
            Ok(Progress::MoreToDo) => Outcome::Snooze(Duration::ZERO),
            Ok(Progress::Elsewhere) => Outcome::Snooze(LOOK_AGAIN),
            Err(error) => error.into(),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Progress {
    Done,
    MoreToDo,
    Elsewhere,
}

async fn expand(order: &ExpandCampaign, context: &JobContext, run: &Run) -> StoreResult<Progress> {
    let started_at = Clock::boottime();
    let Some(plan) = prepare(order, context).await? else {
        return Ok(Progress::Done);
    };
    loop {
        match expand_chunk(&plan, context).await? {
            Progress::MoreToDo => {}
            ended => return Ok(ended),
        }
        run.gets_on::<ExpandCampaign>(&context.db).await?;
        if Clock::boottime().saturating_sub(started_at) > WORK_MAX {
            return Ok(Progress::MoreToDo);
        }
    }
}

/// What every chunk of one campaign needs.
#[derive(Debug)]
struct Plan {
    campaign: Campaign,
    sender: Sender,
    texts: Content,
}

/// Freezes the audience unless that has been done; none when there is nothing to expand.
async fn prepare(order: &ExpandCampaign, context: &JobContext) -> StoreResult<Option<Plan>> {
    let ExpandCampaign {
        tenant_id,
        campaign_id,
    } = *order;
    let mut tx = context.db.cell(tenant_id).begin().await?;
    let campaign = campaigns::load_for_update(tx.conn(), tenant_id, campaign_id).await?;
    // A paused campaign is expanded all the same; begin keeps its messages back.
    let is_going = matches!(
        campaign.status,
        CampaignStatus::Sending | CampaignStatus::Paused
    );
    let (Some(sender_id), Some(content_id)) = (campaign.sender_id, campaign.content_id) else {
        return Ok(None);
    };
    if !is_going {
        return Ok(None);
    }
    if !audience::is_frozen(&mut tx, tenant_id, campaign_id).await? {
        freeze(&mut tx, &campaign).await?;
    }
    let sender = senders::load_sender(tx.conn(), tenant_id, sender_id).await?;
    let version = templates::load_version(tx.conn(), tenant_id, content_id).await?;
    tx.commit().await?;
    // Compiled once for all.
    let texts = Content::compile(version.channel, version.source())
        .map_err(|refusal| StoreError::Unreadable(refusal.to_string()))?;
    Ok(Some(Plan {
        campaign,
        sender,
        texts,
    }))
}

async fn freeze(tx: &mut TenantTx, campaign: &Campaign) -> StoreResult<()> {
    audience::expect_many(tx).await?;
    let mut delta = CountDelta::default();
    for found in audience::freeze(tx, campaign).await? {
        delta.add(CountWord::Audience, found.people);
        match found.reason {
            None => delta.add(CountWord::Unexpanded, found.people),
            Some(reason) => delta.add(format!("skipped_{reason}").parse()?, found.people),
        };
    }
    append_deltas(tx.conn(), &[(campaign.tenant_id, campaign.id, delta)]).await
}

async fn expand_chunk(plan: &Plan, context: &JobContext) -> StoreResult<Progress> {
    let (tenant_id, campaign_id) = (plan.campaign.tenant_id, plan.campaign.id);
    let mut tx = context.db.cell(tenant_id).begin().await?;
    let mut cursor = match audience::take_cursor(&mut tx, tenant_id, campaign_id).await? {
        CursorTaken::Ours(cursor) => cursor,
        CursorTaken::Elsewhere => return Ok(Progress::Elsewhere),
        CursorTaken::Nothing => return Ok(Progress::Done),
    };
    // Whoever is deleted before this has no message, and whoever is deleted after it loses it.
    contacts::keep_people(&mut tx, tenant_id).await?;
    let members =
        audience::list_members(&mut tx, tenant_id, campaign_id, cursor, CHUNK_MEMBERS).await?;
    let mut messages = Vec::with_capacity(members.len());
    let mut skipped: Vec<(ContactId, &'static str)> = Vec::new();
    for member in &members {
        match compose(plan, &context.mac_key, member) {
            Ok(message) => messages.push(message),
            Err(reason) => skipped.push((member.contact_id, reason)),
        }
    }
    let head = batch_head(plan, context);
    let (sender, class) = (&plan.sender, plan.campaign.class);
    let commands = Commands {
        sender,
        class,
        head,
        messages: &messages,
    };
    accept_messages(&mut tx, commands).await?;
    if !skipped.is_empty() {
        audience::insert_skips(&mut tx, tenant_id, campaign_id, &skipped).await?;
    }
    let mut delta = CountDelta::default();
    delta.add(CountWord::Unexpanded, -(members.len() as i64));
    for (_, reason) in &skipped {
        delta.add(format!("skipped_{reason}").parse()?, 1);
    }
    append_deltas(tx.conn(), &[(tenant_id, campaign_id, delta)]).await?;
    cursor.next_position = (cursor.next_position + CHUNK_MEMBERS).min(cursor.total);
    audience::advance_cursor(&mut tx, tenant_id, campaign_id, cursor).await?;
    tx.commit().await?;
    let is_done = cursor.next_position >= cursor.total;
    Ok(if is_done {
        Progress::Done
    } else {
        Progress::MoreToDo
    })
}

fn batch_head(plan: &Plan, context: &JobContext) -> BatchHead {
    let campaign = &plan.campaign;
    let accepted_at = context.clock.now();
    BatchHead {
        tenant_id: campaign.tenant_id,
        lane_id: LaneId(0),
        campaign_id: Some(campaign.id),
        channel: campaign.channel,
        provider: plan.sender.provider,
        account_ref: plan.sender.account_ref.clone(),
        content_id: campaign.content_id,
        accepted_at,
        expires_at: accepted_at + campaign.expires_after,
    }
}

/// One person's message, or why there is none.
fn compose(plan: &Plan, mac_key: &MacKey, member: &Member) -> Result<NewMessage, &'static str> {
    let channel = plan.campaign.channel;
    let recipient = member.recipient.as_ref().ok_or("no_address")?;
    let address = recipient.address(channel).ok_or("no_address")?;
    let texts = plan
        .texts
        .render(&recipient.facts())
        .map_err(|_| "invalid")?;
    let cost = texts.cost(channel).map_err(|_| "invalid")?;
    let started_at = plan.campaign.started_at.ok_or("invalid")?;
    let position = u32::try_from(member.position).map_err(|_| "invalid")?;
    Ok(NewMessage {
        id: campaign_message_id(started_at, plan.campaign.id, 0, position),
        contact_id: Some(member.contact_id),
        address: address.to_owned(),
        dest_mac: member.dest_mac.clone(),
        content_mac: mac_key.content(&texts.parts()),
        cost,
        ready_at: None,
        subject: texts.subject,
        body: texts.body,
        html: texts.html,
    })
}
