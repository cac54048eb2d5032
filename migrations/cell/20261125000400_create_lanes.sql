-- Pace and fairness: who may send next.

create table release_shards (
  shard smallint primary key, epoch bigint not null default 0, owner bigint, until timestamptz not null default '-infinity');
comment on table release_shards is 'Lock and fence of the release leader: every tick starts with `update … where epoch = $mine`.';
insert into release_shards (shard) values (0);

create table lanes (
  tenant_id uuid not null, id bigint generated always as identity, sender_id uuid not null, campaign_id uuid,
  class text not null check (class in ('txn', 'bulk')), shard smallint not null default 0,
  quantum smallint not null default 10, window_n smallint not null default 20,
  active boolean not null default false, next_at timestamptz not null default app_now(), last_served_at timestamptz,
  head uuid not null default '00000000-0000-0000-0000-000000000000',   -- no queued message of this lane is below it
  created_at timestamptz not null default app_now(), primary key (tenant_id, id),
  constraint lanes_key unique nulls not distinct (tenant_id, sender_id, class, campaign_id),
  foreign key (tenant_id, sender_id) references senders, foreign key (tenant_id, campaign_id) references campaigns)
  with (fillfactor = 50);
create index lanes_turn_idx on lanes (tenant_id, shard, class, next_at) where active;       -- whose turn within the tenant
create index lanes_id_idx on lanes (id);                                                    -- wakes and messages name the id
comment on table lanes is 'tenant x sender x class x campaign: order and pause. Inserted by whoever opens it, updated by the leader alone.';

create table lane_wakes (                              -- HOT
  id bigint generated always as identity primary key, tenant_id uuid not null, lane_id bigint not null, head_id uuid not null);
comment on table lane_wakes is 'Appended with the messages, deleted by the leader: active = true, head = least(head, head_id).';

create table tenant_turns (
  tenant_id uuid not null, shard smallint not null, class text not null check (class in ('txn', 'bulk')),
  ring smallint not null default 2 check (ring between 0 and 2),        -- 0 txn, 1 just woke up, 2 bulk
  next_at timestamptz not null default app_now(), weight smallint not null default 1, deficit int not null default 0,
  active boolean not null default false, last_served_at timestamptz,
  primary key (tenant_id, shard, class)) with (fillfactor = 50);
create index tenant_turns_due on tenant_turns (shard, ring, next_at) where active;          -- the ring
comment on table tenant_turns is 'Turns between tenants; a turn is then dealt out over that tenant''s lanes.';

create table buckets (
  id bigint generated always as identity primary key, name text not null unique,    -- number:+1…, brand:…, account:…
  kind text not null check (kind in ('number', 'sender', 'brand', 'brand_day', 'account', 'ses_rate', 'ses_day', 'campaign', 'plan')),
  shard smallint not null default 0, account_ref text references provider_accounts, rate_per_sec numeric, burst numeric not null default 1,
  tat timestamptz not null default '-infinity', cap bigint, used bigint not null default 0, resets_at timestamptz,
  closed_until timestamptz, source text not null, updated_at timestamptz not null default app_now()) with (fillfactor = 50);
comment on table buckets is 'What is left of each rate or quota (GCRA: one timestamp). By account, so that two tenants of one account share it.';

create table lane_buckets (
  tenant_id uuid not null, lane_id bigint not null, bucket_id bigint not null references buckets,
  primary key (tenant_id, lane_id, bucket_id), foreign key (tenant_id, lane_id) references lanes on delete cascade);
create index lane_buckets_bucket_id_idx on lane_buckets (bucket_id);
comment on table lane_buckets is 'Which buckets a lane draws on.';

create table bucket_signals (                          -- HOT
  id bigint generated always as identity primary key, bucket_id bigint not null,
  signal text not null check (signal in ('ok', 'throttled', 'rate_exceeded', 'cap_reached', 'queue_full')),
  retry_after_ms int, at timestamptz not null default app_now());
comment on table bucket_signals is 'What answers and callbacks say about a rate; eaten by the leader, the only writer of buckets.';

select secure_new_tables();
revoke all on lane_wakes, tenant_turns from engageninja_app;
grant insert on lane_wakes to engageninja_app;                          -- single sends wake their lane
revoke update, delete on lanes, lane_buckets from engageninja_app;
-- A request may read the buckets of its own lanes.
grant select on buckets to engageninja_app;
alter table buckets enable row level security;
create policy tenant on buckets for select to engageninja_app
  using (exists (select from lane_buckets b where b.bucket_id = buckets.id));        -- whose own policy narrows it
create policy system on buckets to engageninja_system using (true) with check (true);
