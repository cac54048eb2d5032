-- A server that was promoted has forgotten the last calls, and whoever made them may be gone too. Then the lists of the provider
-- accounts say what went out, and once they have said all there is to say, calls begin again.
alter table database_timelines
  add column recovered_to timestamptz,
  add column held_because text;
comment on column database_timelines.recovered_to is 'The last that this server knows of the one before it; null when nobody can tell.';
comment on column database_timelines.held_because is 'Why the lists alone do not release it, or not yet.';

create table timeline_listings (
  timeline text not null, seen_at timestamptz not null,  -- the quarantine: a timeline's name may come again
  account_ref text not null, provider text not null check (provider in ('twilio', 'aws_ses')),
  first_at timestamptz, listed_at timestamptz, tried_at timestamptz,
  claimed int not null default 0, unknown int not null default 0, unsure int not null default 0, error text,
  primary key (timeline, seen_at, account_ref));
comment on table timeline_listings is 'How far the list of a provider account was compared with a server in quarantine.';
comment on column timeline_listings.first_at is 'The first whole list since which nothing of ours was found.';
comment on column timeline_listings.listed_at is 'The last whole list.';
comment on column timeline_listings.tried_at is 'The last try.';
comment on column timeline_listings.claimed is 'Calls that the server had forgotten and the lists showed.';
comment on column timeline_listings.unknown is 'Messages in the last list that are none of ours.';
comment on column timeline_listings.unsure is 'Messages in the last list that may be of ours and were written otherwise: a person decides.';
comment on column timeline_listings.error is 'Why the last try showed no whole list.';

select secure_new_tables();

-- As before, and an unknown server says how much it may lack. pg_last_xact_replay_timestamp() is of the last commit that a
-- standby or a restored backup took over. Where it took over none since it was started, the processes of before say when they
-- last wrote: whoever wrote before the start of this server wrote on another.
create or replace function check_timeline() returns boolean
language plpgsql volatile
set search_path = cell, public, pg_temp
as $$
declare
  v_timeline text := substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8);
  v_system text := (select system_identifier::text from pg_control_system());
  v_recovered timestamptz;
begin
  if exists (select from database_timelines d where d.timeline = v_timeline and d.system_identifier = v_system) then
    return exists (select from database_timelines d where d.timeline = v_timeline and d.released_at is not null);
  end if;
  v_recovered := coalesce(pg_last_xact_replay_timestamp(),
    (select max(i.seen_at) from incarnations i where i.seen_at < pg_postmaster_start_time()));
  -- Another server may be on a timeline of the same name.
  insert into database_timelines (timeline, system_identifier, recovered_to) values (v_timeline, v_system, v_recovered)
  on conflict (timeline) do update
    set system_identifier = excluded.system_identifier, seen_at = app_now(), released_at = null, released_by = null,
        recovered_to = excluded.recovered_to, held_because = null
    where database_timelines.system_identifier <> excluded.system_identifier;
  return false;
end $$;
