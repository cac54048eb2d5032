-- A rate that was changed holds at once: the lanes that wait by the old one are looked at before their time.
alter table lane_wakes add column look_now boolean not null default false;
comment on column lane_wakes.look_now is 'Also a lane that waits for its bucket is due now: what it waits by has changed.';
