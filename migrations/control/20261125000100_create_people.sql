-- Who may sign in, and which cell a tenant lives in.

create table cells (
  name text primary key check (name ~ '^[a-z0-9-]{1,40}$'),
  database_ref text not null default 'default',        -- which configured URL, never a password
  region text, is_open boolean not null default true,  -- takes new tenants
  created_at timestamptz not null default app_now());
comment on table cells is 'One cell = one PostgreSQL, its workers, its release leader. One row today.';

create table tenant_directory (
  tenant_id uuid primary key, cell text not null references cells (name),
  name text not null, slug text not null unique check (slug ~ '^[a-z0-9][a-z0-9-]{0,62}$'),
  status text not null default 'active' check (status in ('active', 'suspended', 'moving', 'closed')),
  is_demo boolean not null default false,
  created_at timestamptz not null default app_now(), updated_at timestamptz not null default app_now());
comment on table tenant_directory is 'Which cell a tenant lives in. The cell holds the tenant''s own row.';

create table users (
  id uuid primary key, email text not null, email_normalized text not null unique, name text not null,
  password_hash text,                                  -- argon2id; null until the invitation is accepted
  is_platform_admin boolean not null default false, is_disabled boolean not null default false,
  last_login_at timestamptz, created_at timestamptz not null default app_now(),
  updated_at timestamptz not null default app_now());
comment on table users is 'People. platform_admin is a flag here, not a role in a tenant.';

create table memberships (
  tenant_id uuid not null references tenant_directory, user_id uuid not null references users,
  role text not null check (role in ('viewer', 'sender', 'admin', 'owner')),
  created_at timestamptz not null default app_now(), updated_at timestamptz not null default app_now(),
  primary key (tenant_id, user_id));
create index memberships_user_id_idx on memberships (user_id);        -- the tenant switch of one user
comment on table memberships is 'Who may do what in which tenant; viewer < sender < admin < owner.';

create table sessions (
  token_hash bytea primary key, user_id uuid not null references users on delete cascade,
  tenant_id uuid, csrf_secret bytea not null, ip inet, user_agent text,
  created_at timestamptz not null default app_now(), last_seen_at timestamptz not null default app_now(),
  expires_at timestamptz not null,
  foreign key (tenant_id, user_id) references memberships on delete cascade);  -- leaving a tenant ends its sessions
create index sessions_user_id_idx on sessions (user_id);              -- sign out everywhere
create index sessions_expires_at_idx on sessions (expires_at);        -- prune
comment on table sessions is 'Browser sessions. tenant_id is the tenant chosen in the switch.';

create table api_keys (
  tenant_id uuid not null references tenant_directory, id uuid not null, name text not null,
  prefix text not null, key_hash bytea not null unique,               -- the look-up of a request
  role text not null check (role in ('viewer', 'sender', 'admin')),
  created_by uuid references users, created_at timestamptz not null default app_now(), last_used_at timestamptz,
  expires_at timestamptz, revoked_at timestamptz, primary key (tenant_id, id));
comment on table api_keys is 'Keys of a tenant''s programs: shown once, stored hashed.';

create table sms_phone_pool (
  id uuid primary key, phone_number text not null unique check (phone_number ~ '^\+[1-9][0-9]{6,14}$'),
  twilio_phone_number_sid text unique, tenant_id uuid references tenant_directory, allocated_at timestamptz,
  status text not null default 'active' check (status in ('active', 'retired', 'failed')), failure_reason text,
  created_at timestamptz not null default app_now(), updated_at timestamptz not null default app_now(),
  check ((tenant_id is null) = (allocated_at is null)));
create index sms_phone_pool_tenant_id_idx on sms_phone_pool (tenant_id);
create index sms_phone_pool_free_idx on sms_phone_pool (id) where tenant_id is null and status = 'active';
comment on table sms_phone_pool is 'Numbers of the platform. Allocated here first, then written to the cell''s senders, idempotently.';
create function refuse_number_handover() returns trigger language plpgsql as $$
begin
  if old.tenant_id is not null and new.tenant_id is not null and new.tenant_id <> old.tenant_id then
    raise exception 'number % belongs to another tenant; release it first', old.phone_number
      using errcode = 'unique_violation', constraint = 'sms_phone_pool_one_tenant';
  end if;
  return new;
end $$;
create trigger sms_phone_pool_one_tenant before update of tenant_id on sms_phone_pool
  for each row execute function refuse_number_handover();

select secure_new_tables();
-- What a request has no business with: sessions are looked up before a tenant is known, the directory is the platform's.
revoke all on sessions from engageninja_app;
revoke insert, update, delete on tenant_directory, sms_phone_pool from engageninja_app;
-- The names of the members of the request's own tenant.
grant select (id, email, name, last_login_at) on users to engageninja_app;
alter table users enable row level security;
create policy member on users for select to engageninja_app
  using (exists (select from memberships m where m.user_id = users.id));
create policy system on users to engageninja_system using (true) with check (true);
