-- A message is moved three times before it is with its provider, and a move that touches an indexed column writes an entry
-- into every index of the row. So the columns of the partial indexes change only while a message waits: they are computed
-- from its phase, and empty from begin on. What comes after changes the row in place (HOT).
alter table messages
  add column waiting_phase smallint generated always as (case when phase in (-1, 0, 5) then phase end) stored,
  add column released_at timestamptz generated always as (case when phase = 1 then phase_at end) stored;
comment on column messages.waiting_phase is 'phase while it is deferred, queued or parked; of the indexes, which nothing later touches.';
comment on column messages.released_at is 'phase_at while it is released; of an index, which nothing later touches.';

drop index messages_backlog, messages_deferred, messages_released, messages_parked;
create index messages_backlog  on messages (lane_id, id)   where waiting_phase = 0;         -- the pick
create index messages_deferred on messages (ready_at, id)  where waiting_phase = -1;        -- the promoter
create index messages_parked   on messages (tenant_id, id) where waiting_phase = 5;
create index messages_released on messages (released_at)   where released_at is not null;   -- slot expired, leader's first count

-- As before, and a new partition computes what its table computes.
create or replace function maintain_partitions() returns table (what text, partition_name text)
language plpgsql security definer
set search_path = cell, public, pg_temp
set lock_timeout = '2s' set timezone = 'UTC'
as $$
declare
  r partition_rules; p record; v_step interval; v_start timestamptz; v_end timestamptz; v_name text; v_lo text; v_hi text;
begin
  perform pg_advisory_xact_lock((3::bigint << 56) | 1);
  for r in select * from partition_rules order by parent loop
    v_step := case r.unit when 'uuid_week' then '7 days' else '1 day' end;
    v_start := date_trunc(case r.unit when 'uuid_week' then 'week' else 'day' end, app_now()) - v_step;
    for i in 0 .. r.ahead + 1 loop
      v_end := v_start + v_step;
      v_name := r.parent || '_' || to_char(v_start, 'YYYYMMDD');
      if to_regclass('cell.' || quote_ident(v_name)) is null then
        v_lo := case r.unit when 'uuid_week' then uuid_floor(v_start)::text else v_start::date::text end;
        v_hi := case r.unit when 'uuid_week' then uuid_floor(v_end)::text else v_end::date::text end;
        execute format('create table cell.%I (like cell.%I including defaults including generated including constraints including indexes) %s',
          v_name, r.parent, case when r.options = '' then '' else 'with (' || r.options || ')' end);
        execute format('alter table cell.%I attach partition cell.%I for values from (%L) to (%L)', r.parent, v_name, v_lo, v_hi);
        what := 'created'; partition_name := v_name; return next;
      end if;
      v_start := v_end;
    end loop;
    if r.keep is not null then
      for p in select c.relname from pg_inherits i join pg_class c on c.oid = i.inhrelid
               where i.inhparent = ('cell.' || quote_ident(r.parent))::regclass
                 and partition_start(c.relname) + v_step < app_now() - r.keep order by 1 loop
        begin
          execute format('drop table cell.%I', p.relname);
          what := 'dropped'; partition_name := p.relname; return next;
        exception when lock_not_available then null;      -- next hour
        end;
      end loop;
    end if;
  end loop;
end $$;

-- The ids of a campaign's messages begin with the millisecond it started in: they are one range of the primary key, and
-- what other messages lie in it is told apart by campaign_id.
drop index messages_campaign;
create function campaign_ids_from(p_tenant uuid, p_campaign uuid) returns uuid language sql stable parallel safe
set search_path = cell, public, pg_temp as $$
  select uuid_floor(c.started_at) from campaigns c where c.tenant_id = p_tenant and c.id = p_campaign
$$;
create function campaign_ids_to(p_tenant uuid, p_campaign uuid) returns uuid language sql stable parallel safe
set search_path = cell, public, pg_temp as $$
  select uuid_floor(c.started_at + interval '1 ms') from campaigns c where c.tenant_id = p_tenant and c.id = p_campaign
$$;
comment on function campaign_ids_from is 'The lowest id that a message of this campaign may have; null while it has not started.';
comment on function campaign_ids_to is 'The id that all messages of this campaign lie below; null while it has not started.';
revoke all on function campaign_ids_from(uuid, uuid), campaign_ids_to(uuid, uuid) from public;
grant execute on function campaign_ids_from(uuid, uuid), campaign_ids_to(uuid, uuid) to engageninja_app, engageninja_system;

-- The attempt knows the key of its live call.
drop index live_calls_message_id_idx;

create or replace function begin_attempts_2(p_incarnation bigint, p_tenants uuid[], p_ids uuid[], p_tokens uuid[],
    p_deadline interval default '20 s', p_first_look interval default '25 s', p_busy interval default '30 s')
  returns table (tenant_id uuid, message_id uuid, attempt_no smallint, attempt_id uuid, result text)
language plpgsql volatile
set search_path = cell, public, pg_temp
set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off set jit = off
set plan_cache_mode = force_generic_plan                -- planning over many partitions costs more than it finds
as $$
#variable_conflict use_column
declare
  v_now timestamptz;
  v_timeline text := substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8);
begin
  if not exists (select from database_timelines d where d.timeline = v_timeline and d.released_at is not null) then
    raise exception 'database is quarantined' using errcode = 'EN001';
  end if;

  -- 1: the barriers of pause and suspension, all campaigns and tenants of the batch in ascending order.
  perform pg_advisory_xact_lock_shared(s.k)
  from (select campaign_lock_key(m.campaign_id) as k
        -- A fence: with the condition inside, an index of campaigns looks good for a tenant of which little is known.
        from unnest(p_tenants, p_ids) as u(t, i)
        cross join lateral (select x.campaign_id from messages x where x.tenant_id = u.t and x.id = u.i offset 0) m
        where m.campaign_id is not null
        union
        select tenant_lock_key(d.t) from (select distinct u.t from unnest(p_tenants) as u(t)) d
        order by 1) s;

  v_now := app_now();

  -- 2: look and write.
  return query
  with asked as materialized (
    select u.t, u.i, u.a from unnest(p_tenants, p_ids, p_tokens) as u(t, i, a)
  ), locked as materialized (
    select m.*, u.a
    -- Each message by its key and locked in order, whatever the planner believes of the table.
    from (select * from asked order by t, i) u
    cross join lateral (
      select x.tenant_id, x.id, x.lane_id, x.campaign_id, x.attempt_no, x.provider, x.channel, x.provider_account_sid,
             x.dest_mac, x.content_mac, x.expires_at, x.window_ends_at, x.phase
      from messages x where x.tenant_id = u.t and x.id = u.i
      offset 0 for update) m
    where m.phase = 1
  ), judged as materialized (
    select k.*, case
        when exists (select from suppressions s where s.tenant_id = k.tenant_id and s.channel = k.channel and s.dest_mac = k.dest_mac)
          then 'opted_out'
        when k.expires_at <= v_now then 'expired'
        when c.status in ('cancelled', 'failed') then 'cancelled'
        when t.status <> 'active' or c.status <> 'sending' or h.until > v_now then 'held'
        when k.window_ends_at <= v_now then 'window_closed'
        else 'begun' end as verdict
    from locked k
    join tenants t on t.id = k.tenant_id
    join lanes l on l.tenant_id = k.tenant_id and l.id = k.lane_id
    left join campaigns c on c.tenant_id = k.tenant_id and c.id = k.campaign_id
    left join halts h on h.tenant_id = l.tenant_id and h.sender_id = l.sender_id
  ), calls as (
    insert into live_calls (account_ref, dest_mac, content_mac, tenant_id, message_id, attempt_no, since)
    select j.provider_account_sid, j.dest_mac, j.content_mac, j.tenant_id, j.id, j.attempt_no + 1, v_now
    from judged j where j.verdict = 'begun'
    order by j.provider_account_sid, j.dest_mac, j.content_mac, j.id
    on conflict do nothing
    returning tenant_id, message_id
  ), settled as materialized (
    select j.*, case when j.verdict = 'begun' and x.message_id is null then 'busy' else j.verdict end as outcome
    from judged j left join calls x on x.tenant_id = j.tenant_id and x.message_id = j.id
  ), moved as (
    update messages m
    set phase = case s.outcome when 'begun' then 2 when 'busy' then -1 else 0 end,
        phase_at = v_now,
        attempt_no = m.attempt_no + (s.outcome = 'begun')::int,
        ready_at = case s.outcome when 'busy' then v_now + p_busy else m.ready_at end
    from settled s
    where m.tenant_id = s.tenant_id and m.id = s.id and s.outcome in ('begun', 'busy', 'held')
    returning m.tenant_id, m.id
  ), wakes as (                                          -- held: back to the backlog; the leader skips the lane until it may go
    insert into lane_wakes (tenant_id, lane_id, head_id)
    select distinct on (s.tenant_id, s.lane_id) s.tenant_id, s.lane_id, s.id
    from settled s where s.outcome = 'held' order by s.tenant_id, s.lane_id, s.id
  ), deltas as (
    insert into campaign_deltas (tenant_id, campaign_id, counts)
    select s.tenant_id, s.campaign_id, jsonb_build_object(
        'released', -count(*), 'sending', count(*) filter (where s.outcome = 'begun'),
        'deferred', count(*) filter (where s.outcome = 'busy'), 'queued', count(*) filter (where s.outcome = 'held'))
    from settled s where s.campaign_id is not null and s.outcome in ('begun', 'busy', 'held')
    group by s.tenant_id, s.campaign_id
  ), single_deltas as (
    insert into message_deltas (tenant_id, channel, counts)
    select s.tenant_id, s.channel, jsonb_build_object(
        'released', -count(*), 'sending', count(*) filter (where s.outcome = 'begun'),
        'deferred', count(*) filter (where s.outcome = 'busy'), 'queued', count(*) filter (where s.outcome = 'held'))
    from settled s where s.campaign_id is null and s.outcome in ('begun', 'busy', 'held')
    group by s.tenant_id, s.channel
  ), attempts as (
    insert into send_attempts (tenant_id, message_id, attempt_no, id, incarnation, provider, account_ref, dest_mac, content_mac,
                               started_at, deadline, next_look_at)
    select s.tenant_id, s.id, s.attempt_no + 1, s.a, p_incarnation, s.provider, s.provider_account_sid, s.dest_mac, s.content_mac,
           v_now, v_now + p_deadline, v_now + p_first_look
    from settled s where s.outcome = 'begun'
  )
  select u.t, u.i, case when s.outcome = 'begun' then (s.attempt_no + 1)::smallint end,
         case when s.outcome = 'begun' then u.a end, coalesce(s.outcome, 'gone')
  from asked u
  left join settled s on s.tenant_id = u.t and s.id = u.i;
end $$;
