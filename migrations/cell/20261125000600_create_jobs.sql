-- The queue, the processes that serve it, and the clock that feeds it.

create table jobs (
  id bigint generated always as identity primary key,  -- whatever becomes ready again gets a new one: set id = default
  queue text not null, kind text not null, lane uuid, priority smallint not null default 0,
  state smallint not null default 0 check (state between 0 and 2),              -- 0 ready, 1 leased, 2 scheduled
  run_at timestamptz not null default app_now(), attempt smallint not null default 0, max_attempts smallint not null default 12,
  starts smallint not null default 0, lease bigint, lease_until timestamptz, unique_key text, payload jsonb not null,
  last_error text, created_at timestamptz not null default app_now(),
  check ((state = 1) = (lease is not null and lease_until is not null)))
  with (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_cost_delay = 0);
create index jobs_ready on jobs (queue, priority, id) where state = 0;          -- FIFO claim, from the low-water id on
create index jobs_lanes on jobs (queue, lane, id) where state = 0 and lane is not null;   -- claim in turns; never the send queue
create index jobs_due on jobs (run_at) where state = 2;                         -- promoter
create index jobs_leases on jobs (lease_until) where state = 1;                 -- sweeper
create unique index jobs_unique_key on jobs (queue, unique_key) where unique_key is not null;   -- unique while live
comment on table jobs is 'Live rows only. The engine knows no product word; payloads are ids, tenant first. Fenced by (id, attempt, lease).';

create table dead_jobs (
  id bigint primary key, queue text not null, kind text not null, lane uuid, priority smallint not null, unique_key text, payload jsonb not null,
  attempt smallint not null, starts smallint not null, reason text not null, last_error text,
  created_at timestamptz not null, died_at timestamptz not null default app_now());
create index dead_jobs_queue_idx on dead_jobs (queue, died_at desc);
comment on table dead_jobs is 'Kept with payload and error; replay inserts a new job and deletes the row.';

create table incarnations (
  id bigint generated always as identity primary key, host text not null, pid int not null, boot_id text not null, version text not null,
  roles text[] not null default '{}', concurrency int, started_at timestamptz not null default app_now(),
  seen_at timestamptz not null default app_now(), ended_at timestamptz, ended_by text check (ended_by in ('self', 'supervisor')));
create index incarnations_open_idx on incarnations (seen_at) where ended_at is null;        -- workers screen
comment on table incarnations is 'One start of one process. Its advisory lock proves it alive; ended_at proves it gone.';

create table schedules (
  id text primary key, cron text not null, timezone text not null default 'UTC', queue text not null, kind text not null,
  payload jsonb not null default '{}', catch_up text not null default 'coalesce' check (catch_up in ('coalesce', 'each')),
  is_enabled boolean not null default true, updated_at timestamptz not null default app_now());
comment on table schedules is 'Cron expressions: written from the list in the code, switched off by an operator.';

create table schedule_runs (
  schedule_id text not null references schedules, fire_at timestamptz not null, fired_at timestamptz not null default app_now(),
  incarnation bigint, primary key (schedule_id, fire_at));
comment on table schedule_runs is 'fire_at is the nominal instant: whoever inserts the row enqueues the job in the same transaction.';

select secure_new_tables();
grant insert, select (id, queue, unique_key) on jobs to engageninja_app;
