-- What a change leaves behind beside itself: who made it, and the answer for whoever asks again.

create table platform_audit (
  id uuid primary key, at timestamptz not null default app_now(), actor_user_id uuid, actor_label text not null,
  action text not null, target_kind text not null, target_id text, tenant_id uuid, detail jsonb, ip inet);
create index platform_audit_tenant_id_idx on platform_audit (tenant_id, id desc);
comment on table platform_audit is 'What operators did, and what changed about a tenant here: members, invitations, keys. Append-only.';

-- Named apart from the cell's, so that a statement can be checked against both schemas at once.
create table platform_idempotency_keys (
  actor text not null, key text not null check (length(key) between 1 and 255), request_hash bytea not null,
  status_code smallint, answer jsonb, created_at timestamptz not null default app_now(), primary key (actor, key));
create index platform_idempotency_keys_created_at_idx on platform_idempotency_keys (created_at);
comment on table platform_idempotency_keys is 'As in cell, for changes whose home is control: actor = tenant:id or user:id. Answers are sealed, since they may hold a secret.';

select secure_new_tables();
revoke update, delete on platform_audit from engageninja_app, engageninja_system;
-- A change of a tenant records itself and its answer in its own transaction. There is no tenant to guard these answers by;
-- they are sealed and found by the actor's name.
grant select, insert, update on platform_idempotency_keys to engageninja_app;
