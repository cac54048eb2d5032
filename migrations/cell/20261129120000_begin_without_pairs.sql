-- As before, but what belongs together is looked up by hash: joins of a batch with itself compared each with each.
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
    -- Looked up by hash, as below: a join of two batches by loops compares each with each.
    select j.*, case when j.verdict <> 'begun' or (j.tenant_id, j.id) in (select x.tenant_id, x.message_id from calls x)
                     then j.verdict else 'busy' end as outcome
    from judged j
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
  select s.tenant_id, s.id, case when s.outcome = 'begun' then (s.attempt_no + 1)::smallint end,
         case when s.outcome = 'begun' then s.a end, s.outcome
  from settled s
  union all
  select u.t, u.i, null, null, 'gone'
  from asked u
  where (u.t, u.i) not in (select s.tenant_id, s.id from settled s);
end $$;
