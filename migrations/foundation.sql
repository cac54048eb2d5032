-- What both schemas stand on: three roles, and the functions that every statement may call. Run by `migrate` before the
-- lists of `control` and `cell`, in each of their databases, under an advisory lock; running it again changes nothing.

-- owner: owns all, runs migrations. app: one tenant at a time. system: crosses tenants, by policy, since BYPASSRLS
-- needs a superuser. The login is a member of all three and takes one of them per pool.
do $$
declare r text;
begin
  foreach r in array array['engageninja_owner', 'engageninja_app', 'engageninja_system'] loop
    begin
      if not exists (select from pg_roles where rolname = r) then
        execute format('create role %I nologin', r);
      end if;
    exception when duplicate_object or unique_violation then null;   -- another database of this server was faster
    end;
    -- A superuser is a member of everything already. Since 16, who makes a role may give it away but not take it on.
    if not (select rolsuper from pg_roles where rolname = current_user)
       and not pg_has_role(current_user, r, case when current_setting('server_version_num')::int >= 160000 then 'set' else 'member' end) then
      execute format('grant %I to current_user', r);
    end if;
  end loop;
  execute format('grant create on database %I to engageninja_owner', current_database());
end $$;
grant create, usage on schema public to engageninja_owner;
set role engageninja_owner;

-- The one clock. Tests move it (`alter database … set engageninja.clock_offset`); production refuses an offset at
-- start. STABLE, so that `ready_at <= app_now()` is an index condition; within a statement it may still advance. 3 µs a
-- call (measured): bulk inserts take it once and pass it, the column defaults are for single rows.
create or replace function public.app_now() returns timestamptz
language sql stable parallel safe as $$
  select clock_timestamp() + coalesce(nullif(current_setting('engageninja.clock_offset', true), ''), '0')::interval
$$;

-- The smallest UUIDv7 of an instant: partition bounds and "since" conditions.
create or replace function public.uuid_floor(at timestamptz) returns uuid
language sql immutable parallel safe as $$
  select (lpad(to_hex(floor(extract(epoch from at) * 1000)::bigint), 12, '0') || repeat('0', 20))::uuid
$$;

-- The id of one campaign message, the same however often it is computed: 48 bits of the start in ms, version 7,
-- 12 bits step, variant, 32 bits audience position, 30 bits of the campaign. With PRIMARY KEY (tenant_id, id) and
-- `on conflict do nothing` a repeated chunk is a no-op. Rust has the same function; a test compares them.
create or replace function public.campaign_message_id(started_at timestamptz, campaign_id uuid, step int, pos bigint) returns uuid
language sql immutable strict parallel safe as $$
  select (lpad(to_hex(floor(extract(epoch from started_at) * 1000)::bigint), 12, '0')
       || '7' || lpad(to_hex(step & 4095), 3, '0')
       || to_hex((-9223372036854775808)::bigint
               | ((pos & 4294967295) << 30)
               | (('x' || left(md5(campaign_id::text), 8))::bit(32)::bigint & 1073741823)))::uuid
$$;

-- 64-bit advisory keys: a namespace in the high byte, 56 bits of hash below. 1 campaign, 2 incarnation (its number),
-- 3 partitions and migrations, 4 idempotency keys, 5 people of a tenant, 6 tenant. A collision only makes two of them wait for each other.
create or replace function public.campaign_lock_key(campaign_id uuid) returns bigint
language sql immutable strict parallel safe as $$
  select (1::bigint << 56) | ('x' || left(md5(campaign_id::text), 14))::bit(56)::bigint
$$;
create or replace function public.incarnation_lock_key(incarnation bigint) returns bigint
language sql immutable strict parallel safe as $$ select (2::bigint << 56) | incarnation $$;
create or replace function public.people_lock_key(tenant_id uuid) returns bigint
language sql immutable strict parallel safe as $$
  select (5::bigint << 56) | ('x' || left(md5(tenant_id::text), 14))::bit(56)::bigint
$$;
create or replace function public.tenant_lock_key(tenant_id uuid) returns bigint
language sql immutable strict parallel safe as $$
  select (6::bigint << 56) | ('x' || left(md5(tenant_id::text), 14))::bit(56)::bigint
$$;
create or replace function public.idempotency_lock_key(actor text, key text) returns bigint
language sql immutable strict parallel safe as $$
  select (4::bigint << 56) | ('x' || left(md5(actor || ' ' || key), 14))::bit(56)::bigint
$$;

-- Counts added up word by word; a word that comes to nothing is left out.
create or replace function public.sum_counts(counts jsonb[]) returns jsonb
language sql immutable parallel safe as $$
  select coalesce(jsonb_object_agg(s.word, s.n), '{}')
  from (select e.key as word, sum(e.value::bigint)::bigint as n
        from unnest(counts) as p (c) cross join lateral jsonb_each_text(p.c) e
        group by e.key having sum(e.value::bigint) <> 0) s
$$;

-- The last statement of every migration that makes a table: forced row-level security, the three policies and the
-- grants, for each table of the current schema that has none yet. A grant that a table must not have is taken back
-- by the migration itself, below this call.
create or replace function public.secure_new_tables() returns void
language plpgsql set search_path = pg_catalog as $$
declare
  t record; v_cond text; v_schema text := nullif(current_setting('engageninja.schema', true), '');
begin
  if v_schema is null then
    raise exception 'set engageninja.schema before making tables';
  end if;
  for t in
    select c.oid, c.relname as r,
           (select a.attname from pg_attribute a where a.attrelid = c.oid and not a.attisdropped
             and a.attname = case when v_schema = 'cell' and c.relname = 'tenants' then 'id' else 'tenant_id' end) as col
    from pg_class c join pg_namespace n on n.oid = c.relnamespace
    where n.nspname = v_schema and c.relkind in ('r', 'p') and not c.relispartition and c.relname <> '_sqlx_migrations'
  loop
    if has_table_privilege('engageninja_system', t.oid, 'select') then
      continue;                                          -- secured by an earlier migration
    end if;
    execute format('grant select, insert, update, delete on %I.%I to engageninja_system', v_schema, t.r);
    if t.col is null then
      continue;
    end if;
    -- nullif: after a transaction the setting is '' and ''::uuid would be an error instead of no rows.
    v_cond := format('%I = nullif(current_setting(''app.tenant_id'', true), '''')::uuid', t.col);
    execute format('alter table %I.%I enable row level security', v_schema, t.r);
    execute format('alter table %I.%I force row level security', v_schema, t.r);
    execute format('create policy tenant on %I.%I to engageninja_app using (%s) with check (%s)', v_schema, t.r, v_cond, v_cond);
    execute format('create policy system on %I.%I to engageninja_system using (true) with check (true)', v_schema, t.r);
    execute format('create policy owner on %I.%I to engageninja_owner using (true) with check (true)', v_schema, t.r);   -- back-fills
    execute format('grant select, insert, update, delete on %I.%I to engageninja_app', v_schema, t.r);
  end loop;
end $$;

reset role;
