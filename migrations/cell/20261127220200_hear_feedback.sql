-- What answers and reports say of senders, accounts and rates.

-- Who lifts a halt knows better than what was sent before: its late reports do not halt the sender again.
alter table halts add column lifted_at timestamptz;
comment on column halts.lifted_at is 'When somebody ended it before its time; a failure of what was sent before then sets none anew.';

create table account_refusals (
  tenant_id uuid not null references tenants, account_ref text not null,
  refusals int not null, last_at timestamptz not null default app_now(), primary key (tenant_id, account_ref));
comment on table account_refusals is 'Refusals of an account''s credentials in a row, written by finish; gone when the account takes a message. The fifth halts all senders of the account.';
select secure_new_tables();
revoke all on account_refusals from engageninja_app;

alter table buckets
  add column slowed_until timestamptz,
  add column calls_limit numeric,
  add column calls_since timestamptz,
  add column calls_halved_at timestamptz;
comment on column buckets.slowed_until is 'Half its rate until then: a carrier said that it was exceeded.';
comment on column buckets.calls_limit is 'Of an account: calls that may be under way at once, at calls_since; one more with each second since.';
comment on column buckets.calls_since is 'When calls_limit was exact.';
comment on column buckets.calls_halved_at is 'When the provider last said that they were too many.';
