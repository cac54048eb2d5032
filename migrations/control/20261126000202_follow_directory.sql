-- The cell's row of a tenant follows the directory, however often a process dies between the two.

alter table tenant_directory
  add column version bigint not null default 1,        -- counts what the cell has to follow: name, status
  add column synced_version bigint not null default 0, -- what the cell has
  add column begins_with jsonb,                        -- country, zone and consent policy of the cell's first row
  add column clearing text check (clearing in ('reset', 'remove'));
create index tenant_directory_unsynced_idx on tenant_directory (tenant_id) where synced_version < version or clearing is not null;
comment on column tenant_directory.clearing is 'A demo tenant whose rows are being deleted: to begin anew, or for good.';
