-- Who shares a rate with others comes again at the same instant as they do: what was let out last goes last.
alter table lanes add column let_out_at timestamptz;
comment on column lanes.let_out_at is 'When it let something out last. Of lanes that are due since one instant the one that waits longest goes first.';
alter table tenant_turns add column let_out_at timestamptz;
comment on column tenant_turns.let_out_at is 'When one of its lanes let something out last; as there.';

-- What a day''s quota counted and the provider never got is given back, to the day it was taken from.
alter table bucket_signals drop constraint bucket_signals_signal_check;
alter table bucket_signals add constraint bucket_signals_signal_check
  check (signal in ('ok', 'throttled', 'rate_exceeded', 'cap_reached', 'queue_full', 'given_back'));
alter table bucket_signals add column cost bigint not null default 0;
comment on column bucket_signals.cost is 'Segments that are given back.';
comment on column bucket_signals.at is 'When it was heard; what speaks of a day''s quota says here when the call began that it speaks of.';

-- When the newest call of a message began.
create function newest_call_at(p_tenant uuid, p_message uuid, p_attempt_no smallint) returns timestamptz
language sql stable
set search_path = cell, public, pg_temp
as $$
  select a.started_at from send_attempts a
  where a.tenant_id = p_tenant and a.message_id = p_message and a.attempt_no = p_attempt_no
$$;
revoke all on function newest_call_at(uuid, uuid, smallint) from public;
grant execute on function newest_call_at(uuid, uuid, smallint) to engageninja_system;
