-- Suppressions as people look at them: the newest first.
create index suppressions_created_at_idx on suppressions (tenant_id, created_at desc, dest_mac desc);
