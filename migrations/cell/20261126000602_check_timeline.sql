-- Which server is this? Asked on each new connection that begins or finishes calls. One that nobody knows has perhaps forgotten
-- calls that were made: a standby that was promoted, a backup that was restored. It is written down as not released, and
-- begin_attempts refuses every call on it until somebody releases it.
create function check_timeline() returns boolean
language plpgsql volatile
set search_path = cell, public, pg_temp
as $$
declare
  v_timeline text := substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8);
  v_system text := (select system_identifier::text from pg_control_system());
begin
  if exists (select from database_timelines d where d.timeline = v_timeline and d.system_identifier = v_system) then
    return exists (select from database_timelines d where d.timeline = v_timeline and d.released_at is not null);
  end if;
  -- Another server may be on a timeline of the same name.
  insert into database_timelines (timeline, system_identifier) values (v_timeline, v_system)
  on conflict (timeline) do update
    set system_identifier = excluded.system_identifier, seen_at = app_now(), released_at = null, released_by = null
    where database_timelines.system_identifier <> excluded.system_identifier;
  return false;
end $$;
comment on function check_timeline is 'Whether calls may begin on this server; an unknown one is put into quarantine.';
revoke all on function check_timeline() from public;
grant execute on function check_timeline() to engageninja_system;
