-- A live call is told from others by account, recipient and content: a key of 110 bytes, written to the log for every message.
-- Sixteen bytes of their hash tell it as well; two that shared them by chance would wait for each other, no more. A process of
-- before writes the same columns and looks through this small table for its calls.
create function live_call_name(p_account_ref text, p_dest_mac bytea, p_content_mac bytea) returns uuid
language sql immutable strict parallel safe
-- The account by its own hash, since how text becomes bytes depends on the session.
return encode(substr(sha256(int8send(hashtextextended(p_account_ref, 0)) || p_dest_mac || p_content_mac), 1, 16), 'hex')::uuid;
comment on function live_call_name is 'What the provider sees of a call, as one key: the same for calls that a look-up could not tell apart.';
revoke all on function live_call_name(text, bytea, bytea) from public;
grant execute on function live_call_name(text, bytea, bytea) to engageninja_system;

alter table live_calls drop constraint live_calls_pkey;
alter table live_calls add column name uuid
  generated always as (live_call_name(account_ref, dest_mac, content_mac)) stored primary key;
comment on column live_calls.name is 'Account, recipient and content in one: the key that lets no two alike be live.';
