-- What a change leaves behind beside itself: who made it, and the answer for whoever asks again.

create table idempotency_keys (
  tenant_id uuid not null references tenants, key text not null check (length(key) between 1 and 255), request_hash bytea not null,
  status_code smallint, answer jsonb, message_id uuid, campaign_id uuid, created_at timestamptz not null default app_now(),
  primary key (tenant_id, key));
create index idempotency_keys_created_at_idx on idempotency_keys (created_at);              -- deleted after 7 days
comment on table idempotency_keys is 'Inserted with the change it names, by API and SQS bridge alike; a repeat gets the stored answer.';

create table audit_log (
  tenant_id uuid not null references tenants, id uuid not null, at timestamptz not null default app_now(),
  actor_kind text not null check (actor_kind in ('user', 'api_key', 'operator', 'system')), actor_id text, action text not null,
  target_kind text not null, target_id text, detail jsonb, ip inet, primary key (tenant_id, id));
create index audit_log_target_idx on audit_log (tenant_id, target_kind, target_id, id desc);
comment on table audit_log is 'Who did what in a tenant. Append-only.';

select secure_new_tables();
revoke update, delete on audit_log from engageninja_app, engageninja_system;
