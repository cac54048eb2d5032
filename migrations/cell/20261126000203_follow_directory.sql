-- What the cell has of the directory, and how a demo tenant is emptied.

alter table tenants add column directory_version bigint not null default 0;
comment on column tenants.directory_version is 'The version of the directory that name and status are of: an older one changes nothing.';

-- Deletes up to p_limit rows of a tenant, of every table that has a tenant but those kept, partitions one by one. Rows that
-- others point at wait for the next call. 0: nothing is left. SECURITY DEFINER, because nothing is granted on partitions
-- and the audit is append-only for everybody else.
create function clear_tenant(p_tenant uuid, p_keep text[], p_limit bigint) returns bigint
language plpgsql security definer
set search_path = cell, public, pg_temp
set lock_timeout = '2s'
as $$
declare
  t record; v_rows bigint; v_total bigint := 0;
begin
  if not exists (select from tenants where id = p_tenant and is_demo and status <> 'active') then
    raise exception 'tenant % is no demo tenant at rest', p_tenant
      using errcode = 'restrict_violation', constraint = 'clear_tenant_demo_at_rest';
  end if;
  for t in
    select c.oid::regclass as piece
    from pg_class c
    join pg_namespace n on n.oid = c.relnamespace
    join pg_attribute a on a.attrelid = c.oid and a.attname = 'tenant_id' and not a.attisdropped
    left join pg_inherits i on i.inhrelid = c.oid
    left join pg_class p on p.oid = i.inhparent
    where n.nspname = 'cell' and c.relkind = 'r' and not coalesce(p.relname, c.relname) = any (p_keep)
    order by c.relname
  loop
    exit when v_total >= p_limit;
    begin
      execute format('delete from %1$s where ctid = any (array(select ctid from %1$s where tenant_id = $1 limit $2))', t.piece)
        using p_tenant, p_limit - v_total;
      get diagnostics v_rows = row_count;
      v_total := v_total + v_rows;
    exception when foreign_key_violation then null;
    end;
  end loop;
  return v_total;
end $$;
comment on function clear_tenant is 'Of a demo tenant that is suspended or closed; called again until it says 0.';
revoke all on function clear_tenant(uuid, text[], bigint) from public;
grant execute on function clear_tenant(uuid, text[], bigint) to engageninja_system;
