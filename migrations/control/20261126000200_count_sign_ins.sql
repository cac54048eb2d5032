-- Tries to sign in, counted over all processes, and sessions that can be named without their token.

create table login_throttle (
  key_mac bytea primary key, since timestamptz not null default app_now(), tries int not null default 1 check (tries > 0));
create index login_throttle_since_idx on login_throttle (since);      -- what is over is taken away by later tries
comment on table login_throttle is 'Tries per account + address, over all processes, from the first one on for a minute; 5 are allowed. Named by a MAC, since neither is kept.';

-- A program of the version before makes rows without an id of its own.
alter table sessions add column id uuid not null default gen_random_uuid();
create unique index sessions_user_id_id_key on sessions (user_id, id desc);
drop index sessions_user_id_idx;                                      -- the key above begins with it
comment on column sessions.id is 'Names the session in lists; it opens nothing.';

select secure_new_tables();
