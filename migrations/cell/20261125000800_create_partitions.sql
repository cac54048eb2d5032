-- ------------------------------------------------------------------------------------------- partitions

create table partition_rules (
  parent text primary key, unit text not null check (unit in ('uuid_week', 'date_day')),
  ahead int not null, keep interval, options text not null default '');
comment on table partition_rules is 'How maintain_partitions() cuts each table, and how long it keeps a piece (null: for ever).';
-- More than ten weeks ahead: an installation whose scheduler has been dead for that long refuses nothing.
insert into partition_rules (parent, unit, ahead, keep, options) values
  ('messages',           'uuid_week', 10, '400 days', 'fillfactor = 70, autovacuum_vacuum_scale_factor = 0.02'),
  ('message_bodies',     'uuid_week', 10, '90 days',  ''),
  ('send_attempts',      'uuid_week', 10, '400 days', 'fillfactor = 80, autovacuum_vacuum_scale_factor = 0.02'),
  ('message_events',     'uuid_week', 10, '400 days', ''),
  ('provider_events',    'date_day',  74, '30 days',  'fillfactor = 80');
create function partition_start(relname name) returns timestamptz
language sql stable as $$
  select case when relname ~ '_[0-9]{8}$' then (to_date(right(relname, 8), 'YYYYMMDD')::timestamp at time zone 'UTC') end
$$;
-- Called by migrate, by every process at start and hourly; idempotent. SECURITY DEFINER, because only the owner may create.
-- A partition is built apart and attached: that takes a lock which lets reads and writes go on. Nothing is granted on it.
create function maintain_partitions() returns table (what text, partition_name text)
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
        execute format('create table cell.%I (like cell.%I including defaults including constraints including indexes) %s',
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
comment on function maintain_partitions is 'At least 8 weeks ahead; doctor and a metric watch the distance to the last one.';
revoke all on function maintain_partitions() from public;
grant execute on function maintain_partitions() to engageninja_app, engageninja_system;
-- ------------------------------------------------------------------------------------- the catalogue test

-- Must return no row; run by a test, by `doctor` and after every migration.
create function schema_faults() returns table (fault text, object text)
language sql stable set search_path = cell, public, pg_temp as $$
  with ours as (
    select c.*, n.nspname from pg_class c join pg_namespace n on n.oid = c.relnamespace
    where n.nspname in ('control', 'cell') and c.relkind in ('r', 'p'))
  select 'tenant table without forced row-level security', o.nspname || '.' || o.relname
  from ours o join pg_attribute a on a.attrelid = o.oid and a.attname = 'tenant_id'
  where not o.relispartition and not (o.relrowsecurity and o.relforcerowsecurity)
  union all
  select 'tenant table without the three policies', o.nspname || '.' || o.relname
  from ours o join pg_attribute a on a.attrelid = o.oid and a.attname = 'tenant_id'
  where not o.relispartition
    and (select count(*) from pg_policy p where p.polrelid = o.oid and p.polname in ('tenant', 'system', 'owner')) <> 3
  union all
  select 'grant on a partition', o.nspname || '.' || o.relname
  from ours o, aclexplode(o.relacl) g where o.relispartition and g.grantee <> o.relowner
  union all
  select 'foreign key to a partitioned table', k.conname
  from pg_constraint k join ours o on o.oid = k.confrelid where k.contype = 'f' and o.relkind = 'p'
  union all
  select 'foreign key across schemas', k.conname
  from pg_constraint k join ours a on a.oid = k.conrelid join ours b on b.oid = k.confrelid where k.contype = 'f' and a.nspname <> b.nspname
  union all
  select 'foreign key on a partitioned table', k.conname
  from pg_constraint k join ours o on o.oid = k.conrelid where k.contype = 'f' and o.relkind = 'p'
  union all
  select 'table without a comment', o.nspname || '.' || o.relname
  from ours o where not o.relispartition and obj_description(o.oid, 'pg_class') is null
  union all
  select 'enum type', t.typname::text from pg_type t join pg_namespace n on n.oid = t.typnamespace
  where t.typtype = 'e' and n.nspname in ('control', 'cell', 'public')
  union all
  select 'fewer than 8 weeks of partitions ahead', r.parent from partition_rules r
  where not exists (select from pg_inherits i join pg_class c on c.oid = i.inhrelid
                    where i.inhparent = ('cell.' || quote_ident(r.parent))::regclass
                      and partition_start(c.relname) + case r.unit when 'uuid_week' then interval '7 days' else interval '1 day' end
                          >= app_now() + interval '8 weeks')
$$;

select secure_new_tables();
select count(*) as partitions_created from maintain_partitions();
