-- Who may come into a tenant.

create table invitations (
  tenant_id uuid not null references tenant_directory, id uuid not null, email_normalized text not null,
  role text not null check (role in ('viewer', 'sender', 'admin', 'owner')),
  token_hash bytea not null unique, invited_by uuid references users, expires_at timestamptz not null,
  accepted_at timestamptz, revoked_at timestamptz, created_at timestamptz not null default app_now(),
  primary key (tenant_id, id));
create unique index invitations_open_key on invitations (tenant_id, email_normalized)
  where accepted_at is null and revoked_at is null;
comment on table invitations is 'Open and past invitations; the token is stored hashed.';

select secure_new_tables();
-- Whether somebody who is invited is a member already; of the members of the request's own tenant alone.
grant select (email_normalized) on users to engageninja_app;
