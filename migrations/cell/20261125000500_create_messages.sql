-- The message path: one recipient, one content, and each call made for it.

create table messages (                                -- HOT
  tenant_id uuid not null, id uuid not null,           -- campaign_message_id(), else a UUIDv7
  lane_id bigint not null, campaign_id uuid, contact_id uuid, step smallint not null default 0 check (step between 0 and 4095),
  retry_of uuid,                                       -- late retry: a new message, step + 1
  channel text not null check (channel in ('sms', 'whatsapp', 'email')),
  provider text not null check (provider in ('twilio', 'aws_ses', 'demo')),
  phone_number text, email_address text, provider_account_sid text not null,   -- = provider_accounts.account_ref
  dest_mac bytea not null, content_id uuid, content_mac bytea not null, cost smallint not null default 1 check (cost between 1 and 255),
  phase smallint not null default 0 check (phase between -1 and 6),
    -- -1 deferred, 0 queued, 1 released, 2 sending, 3 in_doubt, 4 handed_over, 5 parked, 6 dropped
  phase_at timestamptz not null default app_now(), ready_at timestamptz not null default app_now(),
  expires_at timestamptz not null, window_ends_at timestamptz,                  -- the sending window it was let out for
  attempt_no smallint not null default 0, drop_reason text check ((drop_reason is null) = (phase <> 6)),
  status text, status_rank smallint not null default 0, status_at timestamptz, status_conflict boolean not null default false,
  error_code text, opened_at timestamptz, clicked_at timestamptz, complained_at timestamptz,
  price_micros bigint, price_currency text,
  check (phone_number is not null or email_address is not null or phase in (4, 5, 6)),   -- null after erasure
  primary key (tenant_id, id)) partition by range (id);
-- Every index is paid for by every phase change: one more needs a measurement. The seed's indexes on channel and provider
-- alone are left out.
create index messages_backlog  on messages (lane_id, id)  where phase = 0;                  -- the pick
create index messages_deferred on messages (ready_at, id) where phase = -1;                 -- the promoter
create index messages_released on messages (phase_at)     where phase = 1;                  -- slot expired, leader's first count; tiny
create index messages_campaign on messages (tenant_id, campaign_id, id);
create index messages_contact  on messages (tenant_id, contact_id, id desc);
comment on table messages is 'One recipient, one channel, frozen content: the truth. No foreign keys; an orphan check runs nightly.';

create table message_bodies (                          -- HOT
  tenant_id uuid not null, message_id uuid not null, subject text, body text, html text, vars jsonb, redacted_at timestamptz,
  primary key (tenant_id, message_id)) partition by range (message_id);
comment on table message_bodies is 'The text as rendered at expansion, which is what is sent and looked up. Dropped earlier than messages; redactable.';

create table send_attempts (                           -- HOT
  tenant_id uuid not null, message_id uuid not null, attempt_no smallint not null,
  id uuid not null,                                    -- 128 random bits: the token in callback URL and tags
  incarnation bigint not null, provider text not null, account_ref text not null, dest_mac bytea not null, content_mac bytea not null,
  state smallint not null default 0 check (state between 0 and 6),
    -- 0 open, 1 accepted, 2 doubt, 3 refused, 4 aborted, 5 not_sent, 6 parked
  started_at timestamptz not null default app_now(), deadline timestamptz not null, signed_at timestamptz,
  http_status smallint, error_code text, provider_message_id text, resolved_by text, resolved_at timestamptz,
  look_ups smallint not null default 0, next_look_at timestamptz, first_empty_look_at timestamptz,
  primary key (tenant_id, message_id, attempt_no)) partition by range (message_id);
create unique index attempt_one_live on send_attempts (tenant_id, message_id) where state in (0, 2);   -- the core guard
create index attempt_unresolved on send_attempts (next_look_at) where state in (0, 2);                 -- the resolver
comment on table send_attempts is 'A committed permission to make one provider call. Partitioned by message, so that one live attempt can be a constraint.';

create table live_calls (
  account_ref text not null, dest_mac bytea not null, content_mac bytea not null,
  tenant_id uuid not null, message_id uuid not null, attempt_no smallint not null, since timestamptz not null default app_now(),
  primary key (account_ref, dest_mac, content_mac));
create index live_calls_message_id_idx on live_calls (tenant_id, message_id);               -- deleted with the attempt's end
comment on table live_calls is 'Attempts in open or doubt by what the provider sees: never two alike, so a look-up has one candidate. Always tiny.';

create table message_provider_mappings (               -- HOT
  id uuid not null, tenant_id uuid not null, message_id uuid not null, attempt_no smallint not null,
  channel text not null check (channel in ('sms', 'whatsapp', 'email')),
  provider text not null check (provider in ('twilio', 'aws_ses', 'demo')),
  provider_account text not null, provider_message_id text not null, provider_status text,
  created_at timestamptz not null default app_now(), updated_at timestamptz not null default app_now(),
  primary key (tenant_id, id),
  unique (provider, provider_account, provider_message_id),                     -- whose callback
  unique (tenant_id, message_id, attempt_no));         -- not (message, provider): a detected duplicate must be storable
comment on table message_provider_mappings is 'Provider id to message. Unpartitioned; deleted in batches after the retention.';

create table message_events (                          -- HOT
  tenant_id uuid not null, message_id uuid not null, id uuid not null, at timestamptz not null default app_now(),
  kind text not null, attempt_no smallint, detail jsonb,
  primary key (tenant_id, message_id, id)) partition by range (message_id);
comment on table message_events is 'The timeline: why this person got it, or not.';

create table provider_events (                         -- HOT
  received_day date not null default (app_now() at time zone 'UTC')::date, dedup_key text not null,
  provider text not null, account_ref text, tenant_id uuid, message_id uuid, attempt_id uuid, provider_message_id text,
  status text not null, occurred_at timestamptz, received_at timestamptz not null default app_now(), body jsonb not null,
  tries smallint not null default 0, next_try_at timestamptz not null default app_now(), folded_at timestamptz,
  primary key (received_day, dedup_key)) partition by range (received_day);
create index provider_events_todo on provider_events (next_try_at) where folded_at is null;            -- the fold
create index provider_events_message_idx on provider_events (tenant_id, message_id, received_at);       -- the timeline
comment on table provider_events is 'Raw inbox. A repeat across midnight is stored twice and harmless: the fold is idempotent.';

create table demo_ledger (                             -- HOT
  id bigint generated always as identity primary key, tenant_id uuid not null, message_id uuid not null, attempt_id uuid not null,
  provider_message_id text not null, accepted_at timestamptz not null default app_now(), next_status text, next_at timestamptz);
create index demo_ledger_message_id_idx on demo_ledger (tenant_id, message_id);
create index demo_ledger_next_at_idx on demo_ledger (next_at) where next_at is not null;   -- DemoAdvanceStatus
comment on table demo_ledger is 'What the demo provider accepted, call by call and without any unique key: the judge of "exactly once".';

create table database_timelines (
  timeline text primary key check (timeline ~ '^[0-9A-F]{8}$'), system_identifier text not null,
  seen_at timestamptz not null default app_now(), released_at timestamptz, released_by text);
comment on table database_timelines is 'Timelines on which begin is allowed. A promoted or restored server is on another one: quarantine until it is released.';
insert into database_timelines (timeline, system_identifier, released_at, released_by)
  select substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8), system_identifier::text, app_now(), 'new database' from pg_control_system();

select secure_new_tables();
revoke all on live_calls, demo_ledger from engageninja_app;
revoke insert, update, delete on provider_events, send_attempts, message_provider_mappings from engageninja_app;
