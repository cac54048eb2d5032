-- The tenant, its brands, its provider accounts and where its messages come from.

create table tenants (
  id uuid primary key, name text not null,
  status text not null default 'active' check (status in ('active', 'suspended', 'moving', 'closed')),
  default_country text not null default 'US' check (default_country ~ '^[A-Z]{2}$'),   -- national numbers in imports
  timezone text not null default 'America/New_York',
  weight smallint not null default 1 check (weight between 1 and 100),                   -- share of the ring
  plan_segments_per_sec numeric check (plan_segments_per_sec > 0),
  on_not_sent text not null default 'resend' check (on_not_sent in ('resend', 'park')),
  on_unresolved text not null default 'park' check (on_unresolved in ('park', 'resend')),
  late_retries smallint not null default 0 check (late_retries between 0 and 1),         -- retry_of messages
  consent_policy text not null default 'required' check (consent_policy in ('required', 'attested')),
  sending_window jsonb,                                                                  -- may narrow the law, never widen
  is_demo boolean not null default false, demo_created_by uuid, demo_created_at timestamptz,
  demo_faults jsonb,                                                                     -- 429 storm, lost callbacks, slow
  created_at timestamptz not null default app_now(), updated_at timestamptz not null default app_now());
create index tenants_is_demo_idx on tenants (id) where is_demo;
comment on table tenants is 'The cell''s own row of a tenant: policies, weight, demo.';

create table tenant_business_info (
  id uuid not null, tenant_id uuid not null unique references tenants,
  legal_business_name text not null, dba_name text, business_website text,
  business_type text check (business_type in ('sole_proprietor', 'llc', 'corporation', 'partnership', 'co_operative', 'non_profit', 'government')),
  industry_vertical text, business_registration_number text, country text not null,
  business_address text not null, business_city text not null, business_state text not null, business_zip text not null,
  owner_name text not null, owner_title text, owner_email text not null, owner_phone text not null,
  business_contact_name text, business_contact_email text, business_contact_phone text,
  monthly_sms_volume_estimate int check (monthly_sms_volume_estimate >= 0), use_case_description text,
  sms_opt_in_language text, gdpr_compliant boolean not null default false, tcpa_compliant boolean not null default false,
  verification_status text not null default 'pending' check (verification_status in ('pending', 'verified', 'rejected')),
  verification_failed_reason text, verified_by_admin uuid, verified_at timestamptz,
  created_at timestamptz not null default app_now(), updated_at timestamptz not null default app_now(),
  primary key (tenant_id, id));
create index tenant_business_info_verification_status_idx on tenant_business_info (verification_status);  -- operator's list
comment on table tenant_business_info is 'What the tenant says about itself today; submitting copies it into a brand.';

create table tenant_10dlc_brands (
  id uuid not null, tenant_id uuid not null references tenants,
  legal_business_name text not null, business_registration_number text, country text not null,
  business_address text not null, business_city text not null, business_state text not null, business_zip text not null,
  owner_name text not null, owner_email text not null, owner_phone text not null,
  twilio_brand_sid text unique,
  twilio_brand_status text not null default 'draft' check (twilio_brand_status in ('draft', 'pending', 'approved', 'rejected')),
  twilio_brand_status_reason text,
  twilio_phone_number text, twilio_phone_number_sid text,
  twilio_phone_status text check (twilio_phone_status in ('active', 'provisioning', 'failed')),
  campaign_type text check (campaign_type in ('marketing', 'transactional', 'support', 'two_way')),
  is_active boolean not null default true, deprecation_reason text,
  snapshot jsonb,                                       -- the rest of the business info as submitted
  created_at timestamptz not null default app_now(), updated_at timestamptz not null default app_now(),
  twilio_verified_at timestamptz, twilio_approved_at timestamptz,
  primary key (tenant_id, id));
create unique index tenant_10dlc_brands_active_key on tenant_10dlc_brands (tenant_id) where is_active;   -- one in use
-- Unique among active rows only: an approved row is read-only and cannot give its number up to its successor.
create unique index tenant_10dlc_brands_twilio_phone_number_key on tenant_10dlc_brands (twilio_phone_number) where is_active;
create unique index tenant_10dlc_brands_twilio_phone_number_sid_key on tenant_10dlc_brands (twilio_phone_number_sid) where is_active;
create index tenant_10dlc_brands_pending_idx on tenant_10dlc_brands (updated_at) where twilio_brand_status = 'pending';  -- SyncBrandStatus
comment on table tenant_10dlc_brands is 'One submission = one snapshot. Read-only once approved; a successor is inserted inactive and switched in on its approval.';
create function refuse_change_of_approved_brand() returns trigger language plpgsql as $$
begin
  if old.twilio_approved_at is null then
    return case tg_op when 'DELETE' then old else new end;
  end if;
  -- What may still happen to an approved row: being deprecated, once.
  if tg_op = 'UPDATE' and old.is_active and not new.is_active and new.deprecation_reason is not null
     and to_jsonb(new) - array['is_active', 'deprecation_reason', 'updated_at']
       = to_jsonb(old) - array['is_active', 'deprecation_reason', 'updated_at'] then
    return new;
  end if;
  raise exception 'brand % is approved and read-only', old.id
    using errcode = 'restrict_violation', constraint = 'tenant_10dlc_brands_approved_read_only';
end $$;
create trigger tenant_10dlc_brands_approved_read_only before update or delete on tenant_10dlc_brands
  for each row execute function refuse_change_of_approved_brand();

create table tenant_channel_credentials_v2 (
  id uuid not null, tenant_id uuid not null references tenants,
  channel text not null check (channel in ('sms', 'whatsapp', 'email')),
  provider text not null check (provider in ('twilio', 'aws_ses', 'demo')),
  twilio_account_sid text, twilio_auth_token_encrypted text,
  aws_access_key_id_encrypted text, aws_secret_access_key_encrypted text, aws_region text,
  is_enabled boolean not null default false, is_verified boolean not null default false,
  verification_error text, verified_at timestamptz,
  webhook_secret_encrypted text, webhook_url text, provider_config_json jsonb,
  account_ref text,                                    -- provider_accounts; shared by tenants of one agency
  callbacks_refused_at timestamptz, callbacks_refused_reason text, callbacks_refused_count int not null default 0,
  created_at timestamptz not null default app_now(), updated_at timestamptz not null default app_now(),
  primary key (tenant_id, id), unique (tenant_id, channel),
  check (not is_enabled or is_verified));
create index tenant_channel_credentials_v2_twilio_account_sid_idx on tenant_channel_credentials_v2 (twilio_account_sid);  -- whose callback
comment on table tenant_channel_credentials_v2 is 'Provider accounts of a tenant, sealed; and whether its callbacks are being refused.';

create table provider_accounts (
  account_ref text primary key, provider text not null check (provider in ('twilio', 'aws_ses', 'demo')),
  shard smallint not null default 0, quota jsonb, quota_at timestamptz, created_at timestamptz not null default app_now());
comment on table provider_accounts is 'One provider account, however many tenants use it: all its lanes and buckets are in one shard.';

create table senders (
  tenant_id uuid not null references tenants, id uuid not null,
  channel text not null check (channel in ('sms', 'whatsapp', 'email')),
  provider text not null check (provider in ('twilio', 'aws_ses', 'demo')),
  account_ref text not null references provider_accounts,
  address text not null,                               -- E.164, whatsapp:+E164, short code, or e-mail address
  messaging_service_sid text, brand_id uuid, is_default boolean not null default false,
  status text not null default 'active' check (status in ('provisioning', 'active', 'halted', 'released')),
  segments_per_sec_override numeric check (segments_per_sec_override > 0),
  created_at timestamptz not null default app_now(), updated_at timestamptz not null default app_now(),
  primary key (tenant_id, id), foreign key (tenant_id, brand_id) references tenant_10dlc_brands);
-- Inbound routing: a STOP to this address must find exactly one tenant.
create unique index senders_provider_address_key on senders (provider, address) where status <> 'released';
create unique index senders_default_key on senders (tenant_id, channel) where is_default;
comment on table senders is 'Where messages come from: number, WhatsApp sender, SES identity.';

create table halts (
  tenant_id uuid not null, sender_id uuid not null, until timestamptz not null, reason text not null, code text,
  set_at timestamptz not null default app_now(), primary key (tenant_id, sender_id),
  foreign key (tenant_id, sender_id) references senders);
comment on table halts is 'A sender that must not send for now. Written by finish, fold and the circuit; read by the tick and by begin.';

create table installation (
  is_one boolean primary key default true check (is_one), mac_key_fingerprint bytea not null, created_at timestamptz not null default app_now());
comment on table installation is 'Fingerprint of ENGAGENINJA_MAC_KEY: start refuses another key, since every dest_mac depends on it.';

select secure_new_tables();
