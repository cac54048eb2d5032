-- What is said to whom, and the counts shown while it goes out.

create table templates (
  tenant_id uuid not null references tenants, id uuid not null, name text not null,
  channel text not null check (channel in ('sms', 'whatsapp', 'email')), current_version_id uuid, is_archived boolean not null default false,
  created_at timestamptz not null default app_now(), updated_at timestamptz not null default app_now(),
  primary key (tenant_id, id), unique (tenant_id, name));
comment on table templates is 'A name and its current version.';

create table template_versions (
  tenant_id uuid not null, id uuid not null, template_id uuid not null, version int not null,
  subject text, body text, html text, content_sid text, content_approval text, variables jsonb not null default '[]',
  created_by uuid, created_at timestamptz not null default app_now(),
  primary key (tenant_id, id), unique (tenant_id, template_id, version), foreign key (tenant_id, template_id) references templates);
alter table templates add foreign key (tenant_id, current_version_id) references template_versions deferrable initially deferred;
comment on table template_versions is 'Immutable: nobody may update its text. messages.content_id points here.';

create table campaigns (
  tenant_id uuid not null references tenants, id uuid not null, name text not null,
  channel text not null check (channel in ('sms', 'whatsapp', 'email')),
  provider text check (provider in ('twilio', 'aws_ses', 'demo')),
  class text not null default 'bulk' check (class in ('txn', 'bulk')),
  status text not null default 'draft'
    check (status in ('draft', 'scheduled', 'sending', 'paused', 'completed', 'cancelled', 'failed')),
  sender_id uuid, content_id uuid, audience jsonb not null default '{}',       -- lists, exclusions, filter
  send_at timestamptz, send_local_time time,           -- at one instant, or at this time in each recipient's zone
  pace_per_sec numeric check (pace_per_sec > 0),       -- tenant's own brake; changed while it runs
  expires_after interval not null default '72 hours',
  started_at timestamptz, paused_at timestamptz, finished_at timestamptz, failure_reason text,
  final_counts jsonb,                                  -- frozen at completion; the rows may be dropped later
  created_by uuid, created_at timestamptz not null default app_now(), updated_at timestamptz not null default app_now(),
  primary key (tenant_id, id),
  foreign key (tenant_id, sender_id) references senders, foreign key (tenant_id, content_id) references template_versions,
  check (status in ('draft', 'scheduled', 'cancelled', 'failed') or started_at is not null),
  check (status <> 'completed' or final_counts is not null));
create index campaigns_due_idx on campaigns (send_at) where status = 'scheduled';          -- the schedule that starts them
create index campaigns_channel_idx on campaigns (tenant_id, channel, id desc);
comment on table campaigns is 'started_at (in ms) is part of every message id of the campaign; it never changes once set.';

create table campaign_expansion (
  tenant_id uuid not null, campaign_id uuid not null, step smallint not null default 0, next_pos bigint not null default 0,
  total bigint not null, is_done boolean not null default false, updated_at timestamptz not null default app_now(),
  primary key (tenant_id, campaign_id, step), foreign key (tenant_id, campaign_id) references campaigns);
comment on table campaign_expansion is 'Cursor of the expanders; taken for update skip locked, advanced with each chunk.';

create table campaign_audience (                       -- HOT
  tenant_id uuid not null, campaign_id uuid not null, pos bigint not null check (pos between 0 and 4294967295),
  contact_id uuid not null, dest_mac bytea not null,
  primary key (tenant_id, campaign_id, pos),
  unique (tenant_id, campaign_id, dest_mac));          -- one message per address
comment on table campaign_audience is 'Frozen once at the start, one row per address; deleted when the campaign has ended.';

create table campaign_skips (                          -- HOT
  tenant_id uuid not null, campaign_id uuid not null, contact_id uuid not null,
  reason text not null check (reason in ('duplicate_address', 'no_address', 'no_consent', 'suppressed', 'invalid')),
  primary key (tenant_id, campaign_id, contact_id));
create index campaign_skips_contact_id_idx on campaign_skips (tenant_id, contact_id);      -- a contact's timeline
comment on table campaign_skips is 'Contacts the filter chose and the freeze left out, with the reason.';

create table campaign_deltas (                         -- HOT
  tenant_id uuid not null, campaign_id uuid not null, id bigint generated always as identity, counts jsonb not null,
  primary key (tenant_id, campaign_id, id));
comment on table campaign_deltas is 'One row per (transaction, campaign) that changed counts, e.g. {"released": -40, "sending": 40}.';

create table campaign_totals (
  tenant_id uuid not null, campaign_id uuid not null, counts jsonb not null default '{}', version bigint not null default 0,
  folded_at timestamptz not null default app_now(), primary key (tenant_id, campaign_id));
comment on table campaign_totals is 'Folded deltas. Totals + open deltas is exact in any snapshot; version + number of open deltas is the SSE id.';

select secure_new_tables();
-- Immutable, for everybody.
revoke update, delete on template_versions from engageninja_app, engageninja_system;
