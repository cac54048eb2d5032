-- A server that was promoted may have forgotten calls; the processes that made them write them down again.
alter table database_timelines
  add column replays integer not null default 0,
  add column calls_restored bigint not null default 0;
comment on column database_timelines.replays is 'Processes that have written down on this server what it had forgotten of their calls.';
comment on column database_timelines.calls_restored is 'Calls that it had forgotten.';
