-- The planner does not learn which tenants it has met. Of one that it had not, as right after a first import, it expected a
-- single row, and read all its contacts for each person of a campaign: 6 s for a chunk of 2,000 out of 50,000. Without
-- statistics it expects of everybody the 200th part of the table, and keys are looked up by all their columns.
alter table contacts             alter column tenant_id set statistics 0;
alter table contact_consents     alter column tenant_id set statistics 0;
alter table contact_list_members alter column tenant_id set statistics 0;
alter table suppressions         alter column tenant_id set statistics 0;
alter table campaign_audience    alter column tenant_id set statistics 0;
