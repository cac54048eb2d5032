-- A mapping is found by its attempt or by the provider's id; its own id was read by nobody, and its index was the third that
-- every message paid for. The column is not written any more, and goes when no process of before runs.
alter table message_provider_mappings drop constraint message_provider_mappings_pkey;
alter table message_provider_mappings alter column id drop not null;
alter table message_provider_mappings drop constraint message_provider_mappings_tenant_id_message_id_attempt_no_key;
alter table message_provider_mappings add primary key (tenant_id, message_id, attempt_no);
comment on column message_provider_mappings.id is 'Not written any more.';
