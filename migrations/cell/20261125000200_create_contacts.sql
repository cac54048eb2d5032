-- People, what they agreed to, and how they come in.

create table contacts (
  tenant_id uuid not null references tenants, id uuid not null, first_name text, last_name text,
  name_normalized text not null default '',            -- prefix search by >= and <
  phone_e164 text check (phone_e164 ~ '^\+[1-9][0-9]{6,14}$'), email text, email_normalized text,
  phone_mac bytea, email_mac bytea,                    -- dest_mac of the two addresses, never-rotating key
  country text, zip text, timezone text, attributes jsonb not null default '{}', last_inbound_at timestamptz,
  created_at timestamptz not null default app_now(), updated_at timestamptz not null default app_now(),
  primary key (tenant_id, id),
  constraint contacts_identity_key unique nulls not distinct (tenant_id, phone_e164, email_normalized),
  check (phone_e164 is not null or email_normalized is not null),
  check ((phone_e164 is null) = (phone_mac is null)), check ((email_normalized is null) = (email_mac is null)));
create index contacts_email_normalized_idx on contacts (tenant_id, email_normalized);
create index contacts_name_normalized_idx on contacts (tenant_id, name_normalized, id);
create index contacts_phone_mac_idx on contacts (tenant_id, phone_mac);          -- inbound, opt-out
create index contacts_email_mac_idx on contacts (tenant_id, email_mac);
comment on table contacts is 'People a tenant writes to. Same number and same e-mail = same contact.';

create table contact_lists (
  tenant_id uuid not null references tenants, id uuid not null, name text not null,
  created_at timestamptz not null default app_now(), updated_at timestamptz not null default app_now(),
  primary key (tenant_id, id), unique (tenant_id, name));
comment on table contact_lists is 'Named sets of contacts; audience filters.';

create table contact_list_members (
  tenant_id uuid not null, list_id uuid not null, contact_id uuid not null, added_at timestamptz not null default app_now(),
  primary key (tenant_id, list_id, contact_id),
  foreign key (tenant_id, list_id) references contact_lists on delete cascade,
  foreign key (tenant_id, contact_id) references contacts on delete cascade);
create index contact_list_members_contact_id_idx on contact_list_members (tenant_id, contact_id);
comment on table contact_list_members is 'Who is on which list.';

create table imports (
  tenant_id uuid not null references tenants, id uuid not null, file_name text not null,
  status text not null default 'uploading' check (status in ('uploading', 'queued', 'running', 'completed', 'failed', 'cancelled')),
  total_bytes bigint not null default 0 check (total_bytes <= 536870912), mapping jsonb not null default '{}',
  on_match text not null default 'skip' check (on_match in ('skip', 'update')), list_id uuid,
  consent jsonb,                                       -- wording, source, date, when the tenant attests it
  next_chunk int not null default 0, carry bytea,      -- cursor and half a line, moved with each chunk's rows
  rows_read bigint not null default 0, rows_created bigint not null default 0, rows_updated bigint not null default 0,
  rows_skipped bigint not null default 0, rows_refused bigint not null default 0, refused_by_code jsonb not null default '{}',
  failure_reason text,
  created_by uuid, created_at timestamptz not null default app_now(), finished_at timestamptz,
  primary key (tenant_id, id), foreign key (tenant_id, list_id) references contact_lists);
comment on table imports is 'One upload; the cursor makes it go on where a kill -9 left it, on any machine.';

create table import_chunks (
  tenant_id uuid not null, import_id uuid not null, chunk_no int not null,
  bytes bytea not null check (octet_length(bytes) <= 1048576),
  primary key (tenant_id, import_id, chunk_no), foreign key (tenant_id, import_id) references imports on delete cascade);
comment on table import_chunks is 'The uploaded file in pieces of 1 MiB; deleted after the import.';

create table import_errors (
  tenant_id uuid not null, import_id uuid not null, line bigint not null, column_name text, code text not null, detail text,
  primary key (tenant_id, import_id, line), foreign key (tenant_id, import_id) references imports on delete cascade);
comment on table import_errors is 'The first 10,000 refused lines; the total is in imports.';

create table consents (
  tenant_id uuid not null references tenants, id uuid not null, contact_id uuid,      -- no key: outlives erasure
  channel text not null check (channel in ('sms', 'whatsapp', 'email')), dest_mac bytea not null,
  action text not null check (action in ('granted', 'attested', 'revoked')),
  source text not null, wording text, evidence jsonb, actor text,
  occurred_at timestamptz not null, recorded_at timestamptz not null default app_now(), primary key (tenant_id, id));
create index consents_dest_mac_idx on consents (tenant_id, dest_mac, id);
comment on table consents is 'Ledger of consent. Append-only, for everybody.';

create table contact_consents (
  tenant_id uuid not null, contact_id uuid not null, channel text not null check (channel in ('sms', 'whatsapp', 'email')),
  state text not null check (state in ('granted', 'attested', 'revoked')), consent_id uuid not null, at timestamptz not null,
  primary key (tenant_id, contact_id, channel), foreign key (tenant_id, contact_id) references contacts on delete cascade);
comment on table contact_consents is 'What the ledger comes to, per contact and channel; written in the ledger row''s transaction.';

create table suppressions (
  tenant_id uuid not null references tenants, channel text not null check (channel in ('sms', 'whatsapp', 'email')),
  dest_mac bytea not null,
  reason text not null check (reason in ('opt_out', 'unsubscribe', 'complaint', 'bounce', 'provider', 'manual', 'erased')),
  source text, created_at timestamptz not null default app_now(), primary key (tenant_id, channel, dest_mac));
comment on table suppressions is 'Addresses never to write to. Keyed by MAC, so that an opt-out outlives the erasure of the contact.';

select secure_new_tables();
-- Append-only, for everybody.
revoke update, delete on consents from engageninja_app, engageninja_system;
