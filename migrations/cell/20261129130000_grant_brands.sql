-- What carriers grant a brand and what a provider allows an account, where it is not what it allows everybody.
--
-- Grants stand beside the brand, whose own row is read-only once it is approved.
create table brand_grants (
  tenant_id uuid not null, brand_id uuid not null, provider_status text, identity_status text,
  trust_score smallint check (trust_score between 0 and 100),
  att_class text check (att_class in ('A', 'B', 'C', 'D', 'E', 'F', 'T')),
  messages_per_sec numeric check (messages_per_sec > 0), daily_segment_cap int check (daily_segment_cap > 0),
  is_suspended boolean not null default false,
  granted_at timestamptz not null default app_now(), checked_at timestamptz not null default app_now(),
  primary key (tenant_id, brand_id), foreign key (tenant_id, brand_id) references tenant_10dlc_brands);
comment on table brand_grants is 'What the carriers grant a brand and what Twilio says of it today; changes although the brand row does not.';
select secure_new_tables();
revoke insert, update, delete on brand_grants from engageninja_app;

comment on column provider_accounts.quota is 'What the provider says it allows this account: per_sec, segments (emails: messages) a second.';
-- A request may read the accounts that its tenant's senders use.
grant select on provider_accounts to engageninja_app;
alter table provider_accounts enable row level security;
create policy tenant on provider_accounts for select to engageninja_app
  using (exists (select from senders s where s.account_ref = provider_accounts.account_ref));   -- whose own policy narrows it
create policy system on provider_accounts to engageninja_system using (true) with check (true);
